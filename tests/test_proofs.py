"""Exports with proof, verified without a database: by `verify_export`, and by the program in the documentation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sessions_db import NewMessage, SessionManager, SessionNotFound
from sessions_db.digests import Tree, lines_digest, own_digest, row_digest
from sessions_db.models import Seal, Transcript
from sessions_db.transfer import Outcome, export_lines, import_lines, verify_export
from sessions_db.validation import JsonValue
from tests.support.commands import ok, ok_json, run
from tests.support.pages import ROOT, blocks

Lines = list[Any]

KEY = "agent:a:main"


@pytest.fixture
def seals(manager: SessionManager) -> list[str]:
    """Two seals over a session of its own and several others, and a message after them."""
    digests = []
    key = manager.get_or_create_main("a").key
    for number in range(2):
        with manager.transaction() as tx:
            for _ in range(5):
                tx.send_message(tx.spawn_cron("a", "Test"), "Hello")
            metadata: dict[str, JsonValue] = {"z": 1.50, "a": "é"}
            tx.add_messages(key, [NewMessage("tool", f"ünïcode {number} {each}", "t", metadata) for each in "abc"])
        seal = manager.seal_log()
        assert seal is not None
        digests.append(seal.digest)
    manager.send_message(key, "not sealed")
    return digests


def exported(manager: SessionManager) -> Lines:
    with export_lines(manager, keys=[KEY], proof=True) as export:
        return [json.loads(line) for line in export.lines]


def verified(lines: Lines, expect: str) -> tuple[Any, ...]:
    verdict = verify_export([json.dumps(line, ensure_ascii=False).encode() for line in lines], expect)
    return verdict.fault, verdict.seq, verdict.proved, verdict.unproved, verdict.absent, verdict.redacted


def test_export_is_proved_up_to_the_expected_seal(manager: SessionManager, seals: list[str]) -> None:
    lines = exported(manager)

    assert verified(lines, seals[1]) == (None, None, 6, 1, 0, 0)
    assert verified(lines, seals[0]) == (None, None, 3, 4, 0, 0)
    assert verified(lines, "0" * 64)[0] == f"no seal has the digest {'0' * 64}"


def test_export_while_messages_are_being_sealed_is_proved_up_to_the_last_seal(
    manager: SessionManager, seals: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as interrupted:
        interrupted.setattr("sessions_db.operations.sealing.seal", None)
        with pytest.raises(AttributeError):
            manager.seal_log()

    assert verified(exported(manager), seals[1]) == (None, None, 6, 1, 0, 0)


def message(lines: Lines, position: int) -> dict[str, Any]:
    found: dict[str, Any] = lines[1]["messages"][position]
    return found


def copied(lines: Lines) -> None:
    lines[1]["messages"].insert(2, message(lines, 1))


def renumbered(lines: Lines) -> None:
    message(lines, 1)["seq"], message(lines, 2)["seq"] = 3, 2


def with_changed_digest(lines: Lines) -> None:
    lines[2]["digests"][1][2] = "00" * 32


def moved(lines: Lines) -> None:
    lines[1]["key"] = lines[2]["session_key"] = "agent:b:main"


def transcript(lines: Lines, position: int) -> dict[str, Any]:
    found: dict[str, Any] = lines[2]["transcripts"][position]
    return found


def own_digest_of_a_change(lines: Lines) -> str:
    message(lines, 1)["content"] = "forged"
    names = ["seq", "role", "content", "tool_name", "metadata", "timestamp_ms", "idempotency_key"]
    return row_digest([KEY, *map(message(lines, 1).get, names)])


def with_another_digest(lines: Lines) -> None:
    lines[2]["digests"].append([2, 9, own_digest_of_a_change(lines)])


def with_another_seal(lines: Lines) -> None:
    """Change a message, and add what anyone can make: a later seal with a transcript of it."""
    digest = own_digest_of_a_change(lines)
    made = Transcript(**transcript(lines, 1)["transcript"])
    over: dict[str, Any] = {
        "number": 3,
        "seal_id": 3,
        "message_count": 1,
        "messages_digest": lines_digest([(2, digest)]),
    }
    made = replace(made, **over)
    made = replace(made, digest=own_digest(made))
    seal = Seal(**lines[0]["seals"][1])
    tree = Tree([made.digest])
    seal = replace(seal, id=3, previous_digest=seal.digest, transcript_count=1, transcripts_digest=tree.root())
    lines[0]["seals"].append(asdict(replace(seal, digest=own_digest(seal))))
    lines[2]["transcripts"].append({"transcript": asdict(made), "position": 0, "path": []})
    lines[2]["digests"].append([2, 3, digest])


def without_a_transcript(lines: Lines) -> None:
    del lines[2]["transcripts"][0], lines[2]["digests"][:3]


NOT_OVER = "transcript 1 is not over the digests that are there for it"
NOT_A_LINE = "line 3 is not one of an export with proof"

TAMPERING: dict[str, tuple[Callable[[Lines], object], str | None, int | None]] = {
    "text": (lambda lines: message(lines, 1).update(content="x"), "was changed", 2),
    "role": (lambda lines: message(lines, 1).update(role="user"), "was changed", 2),
    "metadata": (lambda lines: message(lines, 1).update(metadata='{"a": "é", "z": 1.5}'), "was changed", 2),
    "no metadata": (lambda lines: message(lines, 1).pop("metadata"), "was changed", 2),
    "time": (lambda lines: message(lines, 1).update(timestamp_ms=1), "was changed", 2),
    "copied": (copied, "is there more than once", 2),
    "renumbered": (renumbered, "was changed", 3),
    "slipped in": (lambda lines: message(lines, 1).update(seq=0), "was slipped in after its time", 0),
    "digest": (with_changed_digest, NOT_OVER, 1),
    "digest missing": (lambda lines: lines[2]["digests"].pop(0), NOT_OVER, 1),
    "digest of no transcript": (with_another_digest, "has a digest that no transcript covers", 2),
    "digest of a later seal": (with_another_seal, "transcript 3 does not follow the one before it", 4),
    "transcript missing": (without_a_transcript, "transcript 2 does not follow the one before it", 4),
    "moved": (moved, "transcript 1 was changed", 1),
    "transcript": (lambda lines: transcript(lines, 0)["transcript"].update(after_seq=1), "transcript 1 was changed", 1),
    "path": (lambda lines: transcript(lines, 0)["path"].pop(), "transcript 1 is not among those of seal 1", 1),
    "position": (
        lambda lines: transcript(lines, 0).update(position=3),
        "transcript 1 is not among those of seal 1",
        1,
    ),
    "negative position": (
        lambda lines: transcript(lines, 0).update(position=-1),
        "transcript 1 is not among those of seal 1",
        1,
    ),
    "seal": (lambda lines: lines[0]["seals"][0].update(actor="nobody"), "seal 1 was changed", None),
    "seals": (lambda lines: lines[0]["seals"].reverse(), "seal 1 does not follow the one before it", None),
    "first seal missing": (lambda lines: lines[0]["seals"].pop(0), NOT_A_LINE, None),
    "no seals": (
        lambda lines: lines.pop(0),
        "line 1 is not in its place: the seals come first, after each session its proof",
        None,
    ),
    "no proof": (
        lambda lines: lines.pop(2),
        "the file is not whole: it has no seals, or a session without its proof",
        None,
    ),
    "another proof": (
        lambda lines: lines[2].update(session_key="agent:b:main"),
        "the proof after it is of another session",
        None,
    ),
    "not a list": (lambda lines: lines[2].update(digests=7), NOT_A_LINE, None),
    "not hexadecimal": (lambda lines: transcript(lines, 0)["path"].append("x"), NOT_A_LINE, None),
}


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_with_an_export_is_told(manager: SessionManager, seals: list[str], tmp_path: Path, name: str) -> None:
    tamper, fault, seq = TAMPERING[name]
    lines = exported(manager)
    tamper(lines)

    assert verified(lines, seals[1])[:2] == (fault, seq)
    # The program takes a proof for that of the session before it, whatever session it names.
    if name != "another proof":
        assert not proved_by_the_documented_program(lines, seals[1], tmp_path)


def proved_by_the_documented_program(lines: Lines, expect: str, directory: Path) -> list[int]:
    """The numbers of the messages that the program calls proved; none if it fails, or says of any that it is not."""
    (program,) = blocks(ROOT / "docs" / "audit.md", "py")
    file = directory / "export.jsonl"
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", program, str(file), expect], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return []
    said = [line.rsplit(" ", 2) for line in done.stdout.splitlines()]
    sealed = {verdict: [int(number) for which, _, number in said if which == verdict] for verdict, *_ in said}
    later = sealed.pop("NOT PROVED", [])
    return sealed.get("proved", []) if all(number > 6 for number in later) else []


def test_documented_program_proves_what_was_sealed(manager: SessionManager, seals: list[str], tmp_path: Path) -> None:
    lines = exported(manager)

    assert proved_by_the_documented_program(lines, seals[1], tmp_path) == [1, 2, 3, 4, 5, 6]
    assert proved_by_the_documented_program(lines, seals[0], tmp_path) == []


def test_trimmed_messages_are_absent_and_redacted_ones_counted(manager: SessionManager, seals: list[str]) -> None:
    lines = exported(manager)
    del lines[1]["messages"][0]
    mark = {"content": "[redacted]", "tool_name": "[redacted]", "metadata": '{"redacted": "asked for"}'}
    lines[1]["messages"][0] |= mark

    assert verified(lines, seals[1]) == (None, None, 4, 1, 1, 1)


def test_session_of_another_transcript_is_proved_among_many(manager: SessionManager) -> None:
    with manager.transaction() as tx:
        keys = [tx.spawn_cron("a", "Test") for _ in range(37)]
        for key in keys:
            tx.send_message(key, "Hello")
    seal = manager.seal_log()
    assert seal is not None

    with export_lines(manager, proof=True) as export:
        verdict = verify_export(export.lines, seal.digest)
    assert (verdict.fault, verdict.sessions, verdict.proved) == (None, 37, 37)


def test_proofs_of_many_sessions_are_those_of_each(manager: SessionManager, seals: list[str]) -> None:
    manager.delete_session(KEY)
    manager.get_or_create_main("a")
    with manager.transaction() as tx:
        for key in [KEY, *(tx.spawn_cron("a", "Test") for _ in range(100))]:
            tx.send_message(key, "Hello")
    manager.seal_log()
    keys = [KEY, "agent:nobody:main", *(session.key for session in manager.iterate()), KEY]

    proofs = manager.proofs(keys)

    assert len(keys) > 100
    assert proofs == [proof for key in keys for proof in manager.proofs([key])]
    assert [proved.transcript.number for proved in proofs[0].transcripts] == [len(seals) + 1]


def test_import_skips_what_proves_an_export(
    manager: SessionManager, seals: list[str], create_database: Callable[..., str]
) -> None:
    with export_lines(manager, keys=[KEY], proof=True) as export:
        lines = [*export.lines]

    with SessionManager(create_database()) as other:
        outcomes = [line.outcome for line in import_lines(other, None, lines)]
        digests = [proof.digests for proof in other.proofs([KEY])]
        other.seal_log()
        (proof,) = other.proofs([KEY])
    assert outcomes == [Outcome.BLANK, Outcome.IMPORTED, Outcome.BLANK]
    assert digests == [()]
    (original,) = manager.proofs([KEY])
    assert [digest for _, _, digest in proof.digests][:6] == [digest for _, _, digest in original.digests]
    assert len(seals) == 2


def test_export_of_a_session_that_is_not_there_is_an_error(manager: SessionManager) -> None:
    with pytest.raises(SessionNotFound), export_lines(manager, keys=["agent:nobody:main"]):
        pass


def test_command_exports_with_proof_and_verifies_without_a_database(url: str, seals: list[str], tmp_path: Path) -> None:
    file = tmp_path / "session.jsonl"
    options = "export", "--session", KEY, "--proof", "--output", str(file)
    assert ok_json(*options, db=url)["exported"] == 1

    assert ok("audit", "verify-export", str(file), "--expect", seals[1], db="sqlite:////nowhere/x.db").splitlines() == [
        "Proved: 6 messages of 1 session",
        "Redacted: 0 messages",
        "Absent: 0 sealed messages",
        "Not proved: 1 message, sealed later than that or not at all",
    ]
    file.write_text(re.sub("ünïcode 0 b", "x", file.read_text(encoding="utf-8")), encoding="utf-8")
    result = run("audit", "verify-export", str(file), "--expect", seals[1])
    assert (result.exit_code, result.stdout) == (1, "Not verified\n")
    assert result.stderr == f"Message 2 of {KEY}: was changed\n"
