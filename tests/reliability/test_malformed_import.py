"""`import` of files that are damaged, malicious or not conversations at all.

Each line is imported whole or refused with its number, without affecting the others, and a second run imports
nothing.
"""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions_db import SessionManager, SessionStatus
from sessions_db.transfer import Line, Outcome, import_lines
from tests.support.both import Both, both_databases
from tests.support.commands import process, run
from tests.support.databases import PostgresDatabases, SQLiteDatabases
from tests.support.examples import FACTOR, examples

pytestmark = pytest.mark.usefixtures("clock")

GOOD: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Where is my parcel?"}, {"role": "assistant", "content": "There."}]},
    {"label": "näme", "task": "Test", "messages": [{"role": "user", "content": "\u202e'%s\\"}], "reward": 1.5},
    {"messages": []},
    {
        "messages": [
            {"content": None, "role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "look_up"}}]},
            {"role": "tool", "tool_call_id": "1", "name": "look_up", "content": "{}"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": ""}}],
            },
        ]
    },
    {"messages": [{"role": "user", "content": f"{number}"} for number in range(150)], "label": "long"},
]
GOOD_LINES = [json.dumps(value, ensure_ascii=False).encode() for value in GOOD]
SAID = {
    line: sum(message["role"] in ("user", "assistant") and bool(message["content"]) for message in value["messages"])
    for line, value in zip(GOOD_LINES, GOOD, strict=True)
}


def nested(opening: bytes, closing: bytes, levels: int) -> bytes:
    return b'{"messages": [{"role": "user", "content": ' + opening * levels + b"1" + closing * levels + b"}]}"


BAD_LINES = [
    b"\xef\xbb\xbf",
    b"\xef\xbb\xbf\xef\xbb\xbf" + GOOD_LINES[0],
    b"\xff\xfe",
    GOOD_LINES[0].decode().encode("utf-16"),
    GOOD_LINES[0].decode().encode("utf-32-le"),
    GOOD_LINES[1].decode().encode("latin-1", "replace"),
    b"\0",
    GOOD_LINES[0] + b"\0",
    gzip.compress(GOOD_LINES[0], mtime=0).replace(b"\n", b""),
    b"x",
    b"null",
    b"0",
    b'"messages"',
    b"[]",
    b"{",
    b"}",
    b"{}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    *(nested(b"[", b"]", levels) for levels in (100, 150, 900, 990, 1000, 3000, 100_000)),
    *(nested(b'{"a":', b"}", levels) for levels in (100, 150, 900, 990, 1000, 3000, 100_000)),
    GOOD_LINES[0] * 2,
    GOOD_LINES[0] + b",",
    GOOD_LINES[0].replace(b'"', b"'"),
    GOOD_LINES[0].replace(b"]}", b"],}"),
    b"// " + GOOD_LINES[0],
    b'{"messages": [], "messages": []}',
    b'{"messages": [{"role": "user", "role": "user", "content": "x"}]}',
    b'{"messages": [], "a": NaN}',
    b'{"messages": [], "a": -Infinity}',
    b'{"messages": [], "a": 1e999}',
    b'{"messages": [], "a": ' + b"9" * 5000 + b"}",
    b'{"messages": [], "a": "\\ud800"}',
    b'{"messages": [], "\\u0000": 1}',
    b'{"messages": [], "' + b"k" * 100_000 + b'": 1e999}',
    b'{"messages": null}',
    b'{"messages": "user"}',
    b'{"messages": {"role": "user", "content": "x"}}',
    b'{"messages": [null]}',
    b'{"messages": [[]]}',
    b'{"messages": [{}]}',
    b'{"messages": [{"role": "user"}, {"role": "USER", "content": "x"}]}',
    b'{"messages": [{"role": null, "content": "x"}]}',
    b'{"messages": [{"role": ["user"], "content": "x"}]}',
    b'{"messages": [{"role": {}, "content": "x"}]}',
    b'{"messages": [{"role": "user", "content": 5}]}',
    b'{"messages": [{"role": "user", "content": {"text": "x"}}]}',
    b'{"messages": [{"role": "user", "content": "\\u0000"}]}',
    b'{"messages": [{"role": "user", "content": "\\udfff"}]}',
    b'{"messages": [{"role": "tool", "name": "\\ud800", "content": "x"}]}',
    b'{"messages": [{"role": "tool", "name": "' + b"x" * 256 + b'", "content": "x"}]}',
    b'{"messages": [{"role": "user", "content": "x", "_key_order": ["role"]}]}',
    b'{"messages": [], "label": 5}',
    b'{"messages": [], "label": ["x"]}',
    b'{"messages": [], "label": "\\u0000"}',
    b'{"messages": [], "label": "' + b"x" * 256 + b'"}',
    b'{"messages": [], "task": {}}',
    b'{"messages": [], "task": "\\ud800"}',
]

# JSON of any kind, much of it in the shape of a conversation.
texts = st.text(max_size=6) | st.sampled_from(["user", "tool", "content", "messages", "\0", "\ud800", "x" * 256])
numbers = st.integers() | st.floats() | st.booleans()
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | texts | numbers,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts, children, max_size=3),
    max_leaves=6,
)
roles = st.sampled_from(["user", "assistant", "system", "tool", "developer", "function", "critic"])
chat_messages = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "tool", "developer", "function", "critic"])
        | json_values,
        "content": texts | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts})) | json_values,
        "name": texts | json_values,
        "tool_calls": json_values,
        "_key_order": json_values,
    },
)
conversations = st.fixed_dictionaries(
    {"messages": st.lists(chat_messages, max_size=4) | json_values},
    optional={"label": texts | json_values, "task": texts | json_values, "a": json_values, "": json_values},
)
dumped = st.builds(
    lambda value, ascii_only: json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"),
    conversations | json_values,
    st.booleans(),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good line that was cut off, or in which something was changed, inserted or removed."""
    line = draw(st.sampled_from(GOOD_LINES) | dumped)
    start = draw(st.integers(0, len(line)))
    end = draw(st.integers(start, min(len(line), start + 4)))
    return draw(st.sampled_from([line[:start], line[:start] + draw(st.binary(max_size=4)) + line[end:]]))


some_lines = st.one_of(
    st.sampled_from(GOOD_LINES),
    st.sampled_from(BAD_LINES),
    st.sampled_from([b"", b" \t", b"\r", b"\x0b\x0c"]),
    st.binary(max_size=30),
    dumped,
    damaged(),
)
files = st.builds(
    lambda lines, ending, last, mark: mark + ending.join(lines) + last,
    st.lists(some_lines, max_size=6),
    st.sampled_from([b"\n", b"\r\n"]),
    st.sampled_from([b"", b"\n", b"\r\n\r\n"]),
    st.sampled_from([b"", b"", b"\xef\xbb\xbf"]),
)


@pytest.fixture(scope="module")
def both(sqlite_databases: SQLiteDatabases, postgres_databases: PostgresDatabases) -> Iterator[Both]:
    with both_databases(sqlite_databases, postgres_databases) as databases:
        yield databases


def imported(both: Both, content: bytes) -> list[Line]:
    """The outcome of each line, which must be the same on both databases."""
    lines = both.outcome(lambda manager: [*import_lines(manager, "support", io.BytesIO(content))])
    assert isinstance(lines, list)
    return lines


def check_whole(both: Both, lines: list[Line]) -> None:
    """Assert that every line reported as imported is stored completely, and nothing else is."""
    new = [line for line in lines if line.outcome is Outcome.IMPORTED]
    state = both.state()
    sessions = {row["key"]: row for row in state["sessions"] if row["agent_id"] == "support"}
    main = sessions.pop("agent:support:main", None)
    assert (main is None) == (not new)
    assert sorted(line.messages for line in new) == sorted(row["last_seq"] for row in sessions.values())
    assert {row["status"] for row in sessions.values()} <= {SessionStatus.COMPLETED.value}
    retained = [row["session_key"] for row in state["messages"]]
    for key, row in sessions.items():
        assert retained.count(key) == min(100, row["last_seq"])


@examples(150)
@given(content=files)
def test_any_file_is_imported_line_by_line_whole_or_not_at_all(both: Both, content: bytes) -> None:
    both.reset()

    lines = imported(both, content)

    physical = content.split(b"\n") if content else []
    physical = physical[:-1] if physical and not physical[-1] else physical
    assert [line.number for line in lines] == [*range(1, len(physical) + 1)]
    assert sum(line.size for line in lines) == len(content)
    for line, text in zip(lines, physical, strict=True):
        assert (line.reason is not None) == (line.outcome is Outcome.REFUSED)
        assert len(line.reason or "") < 1000
        if text.strip() in GOOD_LINES:
            assert line.outcome in (Outcome.IMPORTED, Outcome.ALREADY_THERE)
    check_whole(both, lines)
    before = both.state()
    again = imported(both, content)
    assert [line.outcome for line in again] == [
        Outcome.ALREADY_THERE if line.outcome is Outcome.IMPORTED else line.outcome for line in lines
    ]
    assert both.state() == before


@pytest.mark.parametrize("bad", BAD_LINES, ids=lambda line: repr(line[:40]))
def test_a_malformed_line_is_refused_and_leaves_nothing_between_good_ones(both: Both, bad: bytes) -> None:
    content = b"\n".join([GOOD_LINES[0], bad, GOOD_LINES[1]])
    extra = content.count(b"\n") - 2
    both.reset()

    lines = imported(both, content)

    refused = [line for line in lines if line.outcome is Outcome.REFUSED]
    assert len(refused) == 1 + extra
    assert all(line.reason and len(line.reason) < 1000 for line in refused)
    check_whole(both, lines)


def test_a_line_of_many_megabytes_is_imported_or_refused_like_any_other(both: Both) -> None:
    size = (10 if FACTOR == 1 else 100) * 2**20
    big = b'{"messages": [{"role": "user", "content": "' + b"x" * size + b'"}]}'
    both.reset()

    lines = imported(both, b"\n".join([big, big[:-3], b" " * size, b"x" * size, GOOD_LINES[0]]))

    assert [line.outcome.name for line in lines] == ["IMPORTED", "REFUSED", "BLANK", "REFUSED", "IMPORTED"]
    contents = {len(row["content"]) for row in both.state()["messages"]}
    assert size in contents
    assert all(len(line.reason or "") < 1000 for line in lines)


REPORT = re.compile(r"line \d+: [^\n]+")


def check_command(url: str, content: bytes) -> dict[str, int]:
    """The summary of an import that succeeds, or prints a line for each refused line."""
    result = run("import", "-", "--agent", "support", "--json", db=url, stdin=content)
    summary: dict[str, int] = json.loads(result.stdout)
    reports = result.stderr.splitlines()
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code == (1 if summary["refused"] else 0)
    assert len(reports) == summary["refused"]
    assert all(REPORT.fullmatch(report) for report in reports)
    return summary


@examples(30)
@given(content=files)
def test_the_command_succeeds_or_prints_a_line_for_each_refused_line(url: str, content: bytes) -> None:
    first = check_command(url, content)
    again = check_command(url, content)

    assert again["imported"] == 0
    assert again["refused"] == first["refused"]


def test_the_command_reports_every_malformed_line(url: str, manager: SessionManager) -> None:
    bad = [line for line in BAD_LINES if b"\n" not in line and line != b"\xef\xbb\xbf"]

    summary = check_command(url, b"\r\n".join([*bad, GOOD_LINES[0], b"", *bad]))

    assert summary["refused"] == 2 * len(bad)
    assert summary["imported"] == 1 == len(manager.list(["subagent"], limit=1000))


@pytest.mark.parametrize("kind", ["directory", "unreadable"])
def test_what_cannot_be_read_is_one_line_of_error(url: str, tmp_path: Path, kind: str) -> None:
    # On Linux, reading this file fails: nothing is mapped at address 0.
    file = tmp_path if kind == "directory" else Path("/proc/self/mem")
    if not file.exists():
        pytest.skip("no file here that opens and then fails to be read")

    result = run("import", str(file), "--agent", "support", db=url)

    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("agent", ["a:b", "", "x" * 300])
def test_an_agent_id_that_is_refused_is_one_line_of_error(url: str, tmp_path: Path, agent: str) -> None:
    file = tmp_path / "good.jsonl"
    file.write_bytes(GOOD_LINES[0])

    result = run("import", str(file), "--agent", agent, db=url)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: agent_id must ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("agent", [b"\xff", b"\xed\xa0\x80"])
def test_an_agent_id_in_no_encoding_is_one_line_of_error(url: str, tmp_path: Path, agent: bytes) -> None:
    file = tmp_path / "good.jsonl"
    file.write_bytes(GOOD_LINES[0])

    importing = process("import", str(file), "--agent", agent, db=url)  # type: ignore[arg-type]  # as a shell passes it
    stdout, stderr = importing.communicate(timeout=60)

    assert (importing.returncode, stdout) == (1, b"")
    assert stderr.startswith(b"Error: agent_id must ")
    assert stderr.count(b"\n") == 1


def test_a_second_run_of_a_good_file_imports_nothing(both: Both) -> None:
    content = b"\n".join(GOOD_LINES)
    both.reset()
    first = imported(both, content)
    before = both.state()

    again = imported(both, content)

    assert [line.outcome for line in first] == [Outcome.IMPORTED] * len(GOOD)
    assert [line.outcome for line in again] == [Outcome.ALREADY_THERE] * len(GOOD)
    assert both.state() == before
    main = next(row for row in before["sessions"] if row["key"] == "agent:support:main")
    assert main["last_seq"] == sum(SAID.values())
