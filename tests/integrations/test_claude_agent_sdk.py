"""The transcripts of the Claude Agent SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid5

import pytest
from claude_agent_sdk import (
    ClaudeAgentOptions,
    SessionKey,
    SessionStoreEntry,
    Transport,
    delete_session_via_store,
    fork_session_via_store,
    get_session_info_from_store,
    get_session_messages_from_store,
    get_subagent_messages_from_store,
    import_session_to_store,
    list_sessions_from_store,
    list_subagents_from_store,
    project_key_for_directory,
    query,
    rename_session_via_store,
    tag_session_via_store,
)
from claude_agent_sdk._internal.session_resume import materialize_resume_session
from claude_agent_sdk.testing import run_session_store_conformance

from sessions_db import AsyncSessionManager, InvalidInput
from sessions_db.integrations.claude_agent_sdk import PAYLOAD, StoredSessionStore

SESSION = "11111111-1111-4111-8111-111111111111"
KEY = SessionKey(project_key="-work", session_id=SESSION)
SUB = SessionKey(project_key="-work", session_id=SESSION, subpath="subagents/agent-a")
STORED_KEY = f"agent:main:conversation:-work/{SESSION}"


def run(url: str, test: Callable[[AsyncSessionManager, StoredSessionStore], Awaitable[None]], cap: int = 100) -> None:
    async def opened() -> None:
        async with AsyncSessionManager(url, message_cap=cap) as manager:
            await test(manager, StoredSessionStore(manager))
            assert not manager.closed

    asyncio.run(opened())


def entry(number: int, kind: str = "user", content: object = "Hello", **others: object) -> SessionStoreEntry:
    """The entry of this number, after the one before it."""
    before = str(uuid5(UUID(SESSION), str(number - 1))) if number else None
    made: dict[str, object] = {
        "type": kind,
        "uuid": str(uuid5(UUID(SESSION), str(number))),
        "parentUuid": before,
        "sessionId": SESSION,
        "timestamp": f"2026-01-01T00:{number // 60:02}:{number % 60:02}.000Z",
        "message": {"role": kind, "content": content},
    }
    return cast(SessionStoreEntry, made | others)


def turn(number: int) -> list[SessionStoreEntry]:
    """A question, a call of a tool, its result and the answer, numbered from four times this."""
    first, call = 4 * number, f"toolu_{number}"
    result = [{"type": "text", "text": "sunny"}]
    return [
        entry(first, content=f"Weather {number}?"),
        entry(
            first + 1,
            "assistant",
            [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": call, "name": "look_up", "input": {"city": "Porto"}},
            ],
        ),
        entry(first + 2, content=[{"type": "tool_result", "tool_use_id": call, "content": result}]),
        entry(first + 3, "assistant", [{"type": "text", "text": f"Sunny {number}"}]),
    ]


def entries(*numbers: int) -> list[SessionStoreEntry]:
    return [each for number in numbers for each in turn(number)]


def other(kind: str, **fields: object) -> SessionStoreEntry:
    return cast(SessionStoreEntry, {"type": kind, "sessionId": SESSION, **fields})


TITLE = other("custom-title", customTitle="Trip")


def nested(depth: int) -> object:
    value: object = "deep"
    for _ in range(depth):
        value = [value]
    return value


def test_the_sdks_conformance_suite_passes(url: str) -> None:
    async def test(manager: AsyncSessionManager, _: StoredSessionStore) -> None:
        number = count()
        await run_session_store_conformance(lambda: StoredSessionStore(manager, f"agent-{next(number)}"))

        # A store for each of the 14 contracts, and one to look at.
        assert next(number) == 15

    run(url, test)


def test_entries_come_back_as_they_were(url: str) -> None:
    given = [
        entry(0, content="NUL \0, lone \ud800"),
        entry(1, content=nested(200)),
        entry(2, note=[float("inf"), 1.0, 1, True, None]),
        entry(3, "assistant", [{"type": "tool_use", "id": ["x"], "name": 5, "input": {"\0": "\udfff"}}]),
        entry(4, content=[{"type": "tool_result", "tool_use_id": [], "content": None}, "text"]),
        entry(5, message=None),
        other("custom-title", customTitle="\0"),
        other("file-history-snapshot", snapshot={"trackedFileBackups": {}}),
        cast(SessionStoreEntry, {"type": None}),
        cast(SessionStoreEntry, {}),
    ]

    async def test(_: AsyncSessionManager, store: StoredSessionStore) -> None:
        for key in (KEY, SUB):
            await store.append(key, given)

            assert await store.load(key) == given
        assert (await store.list_session_summaries("-work"))[0]["data"]["custom_title"] == "\0"

    run(url, test)


def test_an_auditor_reads_who_said_what(url: str, plain: Callable[[str], Sequence[Any]]) -> None:
    async def test(_: AsyncSessionManager, store: StoredSessionStore) -> None:
        others = [TITLE, other("mode", mode="plan"), other("system", content="Compacted"), other("x")]
        attached = other("attachment", attachment={"type": "date", "date": "2026-11-30"})
        # As with `session_store_flush="eager"`: the call of the tool comes before its result.
        for each in [*turn(1), *others, attached]:
            await store.append(KEY, [each])

    run(url, test)

    found = plain("SELECT role, content, tool_name FROM audit_messages ORDER BY seq")
    assert [tuple(row) for row in found] == [
        ("user", "Weather 1?", None),
        ("assistant", '{"city": "Porto"}', "look_up"),
        ("tool", "sunny", "look_up"),
        ("assistant", "Sunny 1", None),
        ("system", "custom-title: Trip", None),
        ("system", "mode: plan", None),
        ("system", "system: Compacted", None),
        ("system", "x", None),
        ("system", "attachment: date", None),
    ]


def test_a_transcript_is_whole_whatever_the_managers_cap(url: str) -> None:
    async def test(manager: AsyncSessionManager, store: StoredSessionStore) -> None:
        for key in (KEY, SUB):
            await store.append(key, entries(0, 1))
            await store.append(key, entries(2))

            assert await store.load(key) == entries(0, 1, 2)
        assert len(await manager.history(STORED_KEY, include_tools=True) or []) == 12

    run(url, test, cap=5)


def test_what_is_appended_again_is_stored_once(url: str) -> None:
    async def test(_: AsyncSessionManager, store: StoredSessionStore) -> None:
        changed = [{**turn(0)[1], "cwd": "/other"}, *turn(1), {**turn(1)[0], "cwd": "/other"}]
        for key in (KEY, SUB):
            for batch in (turn(0), turn(0)[:2], turn(0)[2:], changed, entries(0, 1, 2), [TITLE], [TITLE], []):
                await store.append(key, cast(list[SessionStoreEntry], batch))

            # The first of a uuid is kept; without one, each is.
            assert await store.load(key) == [*entries(0, 1, 2), TITLE, TITLE]

    run(url, test)


def test_appends_at_once_are_all_stored_and_summarized(url: str) -> None:
    async def test(manager: AsyncSessionManager, store: StoredSessionStore) -> None:
        async with AsyncSessionManager(url) as second:
            stores = [store, StoredSessionStore(second)]
            batches = [[*turn(number), other("tag", tag="t"), other(f"kind-{number}")] for number in range(12)]
            batches[5].append(TITLE)
            await asyncio.gather(
                *(stores[at % 2].append(key, batch) for at, batch in enumerate(batches) for key in (KEY, SUB))
            )

        for key in (KEY, SUB):
            stored = await store.load(key) or []
            starts = [stored.index(batch[0]) for batch in batches]
            assert [stored[at : at + len(batch)] for at, batch in zip(starts, batches, strict=True)] == batches
            assert len(stored) == sum(map(len, batches))
        (summary,) = await store.list_session_summaries("-work")
        assert summary["data"]["custom_title"] == "Trip"
        assert len(await manager.list(kinds=["conversation"])) == 1

    run(url, test)


def test_transcripts_of_subagents_are_children(url: str) -> None:
    async def test(manager: AsyncSessionManager, store: StoredSessionStore) -> None:
        await store.append(SUB, turn(0))
        assert await store.list_sessions("-work") == []
        assert await store.load(KEY) is None
        await store.append(KEY, turn(1))
        await manager.spawn_subagent("main", "of another's", parent_key=STORED_KEY)

        child, other_child = await manager.children(STORED_KEY)
        assert (child.kind, child.task, child.metadata) == (
            "subagent",
            "subagents/agent-a",
            {PAYLOAD: {"subpath": "subagents/agent-a"}},
        )
        assert await store.list_subkeys({"project_key": "-work", "session_id": SESSION}) == ["subagents/agent-a"]
        await store.delete(KEY)
        assert await store.load(SUB) is None
        assert [each.key for each in await manager.list()] == [other_child.key]
        await store.append(SUB, turn(2))
        assert await store.load(SUB) == turn(2)

    run(url, test)


def test_transcripts_are_their_agents_and_never_share_a_name(url: str) -> None:
    async def test(manager: AsyncSessionManager, store: StoredSessionStore) -> None:
        names: list[SessionKey] = [
            {"project_key": "a", "session_id": "b"},
            {"project_key": "a", "session_id": "b", "subpath": "c/d"},
            {"project_key": "a/b", "session_id": "c"},
            {"project_key": "a/b", "session_id": "c", "subpath": "d"},
            {"project_key": "a", "session_id": "a:b"},
        ]
        for number, key in enumerate(names):
            await store.append(key, turn(number))

        assert [await store.load(key) for key in names] == [turn(number) for number in range(5)]
        assert sorted(each["session_id"] for each in await store.list_sessions("a")) == ["a:b", "b"]
        assert await StoredSessionStore(manager, "other").list_sessions("a") == []

    run(url, test)


def test_a_summary_survives_what_others_do(url: str) -> None:
    async def test(manager: AsyncSessionManager, store: StoredSessionStore) -> None:
        await store.append(KEY, [*turn(0), TITLE])
        expected = (await store.list_session_summaries("-work"))[0]["data"]
        await manager.send_message(STORED_KEY, "Hurry")
        assert (await store.list_session_summaries("-work"))[0]["data"] == expected
        await store.append(KEY, turn(1))
        await manager.redact_message(STORED_KEY, 10, reason="private")
        await manager.pop_messages(STORED_KEY)
        await store.append(KEY, turn(2))

        assert (await store.list_session_summaries("-work"))[0]["data"] == expected
        assert await store.load(KEY) == [*turn(0), TITLE, *turn(1)[:3], *turn(2)]

    run(url, test)


def test_wrong_input_is_refused_and_nothing_is_stored(url: str) -> None:
    async def test(manager: AsyncSessionManager, store: StoredSessionStore) -> None:
        good = entry(0)
        deep: dict[str, object] = {}
        for _ in range(2000):
            deep = {"type": "tool_result", "content": [deep]}
        refused: list[tuple[object, object]] = [
            ({**KEY, "project_key": ""}, [good]),
            ({**KEY, "session_id": "a/b"}, [good]),
            ({**KEY, "subpath": ""}, [good]),
            ({**KEY, "subpath": "\0"}, [good]),
            ({"project_key": "x" * 250, "session_id": SESSION}, [good]),
            ({"project_key": "-work"}, [good]),
            ("key", [good]),
            *((KEY, [good, wrong]) for wrong in (None, "text", {"type": "x", "object": object()}, {"uuid": 5})),
            (KEY, [good, {"type": "user", "message": {"content": [deep]}}]),
            *((KEY, [good, {**good, "uuid": uuid}]) for uuid in ("", "\0", "x" * 256)),
            (KEY, good),
            (KEY, None),
        ]
        for key, batch in refused:
            with pytest.raises(InvalidInput):
                await store.append(cast(SessionKey, key), cast(list[SessionStoreEntry], batch))
        for wrong in ("text", None):
            with pytest.raises(InvalidInput):
                StoredSessionStore(cast(AsyncSessionManager, wrong))
        with pytest.raises(InvalidInput):
            StoredSessionStore(manager, "a:b")

        assert await manager.list() == []

    run(url, test)


class Scripted(Transport):
    """A Claude Code that answers each question with a turn, and mirrors it and that of a sub-agent."""

    def __init__(self, transcript: Path, number: int) -> None:
        self._transcript, self._number = transcript, number
        self._frames: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def connect(self) -> None:
        """Nothing is to be started."""

    def is_ready(self) -> bool:
        return True

    async def write(self, data: str) -> None:
        sent = json.loads(data)
        if sent["type"] == "control_request":
            response = {"subtype": "success", "request_id": sent["request_id"], "response": {}}
            self._frames.put_nowait({"type": "control_response", "response": response})
            return
        sub = self._transcript.with_suffix("") / "subagents" / "agent-a.jsonl"
        for each in turn(self._number):
            self._mirror(self._transcript, each)
            self._mirror(sub, each)
        self._frames.put_nowait(
            {
                "type": "result",
                "subtype": "success",
                "duration_ms": 1,
                "duration_api_ms": 1,
                "is_error": False,
                "num_turns": 1,
                "session_id": SESSION,
            }
        )

    def _mirror(self, file: Path, each: SessionStoreEntry) -> None:
        self._frames.put_nowait({"type": "transcript_mirror", "filePath": str(file), "entries": [each]})

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        while (frame := await self._frames.get()) is not None:
            yield frame

    async def end_input(self) -> None:
        self._frames.put_nowait(None)

    async def close(self) -> None:
        self._frames.put_nowait(None)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration directory for the SDK, in which nobody is logged in."""
    directory = tmp_path / "config"
    directory.mkdir()
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(directory))
    return directory


@pytest.mark.parametrize("flush", ["batched", "eager"])
def test_the_sdk_mirrors_its_runs_and_resumes_from_the_store(
    url: str, config: Path, tmp_path: Path, flush: Any
) -> None:
    project_key = project_key_for_directory(tmp_path)
    transcript = config / "projects" / project_key / f"{SESSION}.jsonl"

    async def test(_: AsyncSessionManager, store: StoredSessionStore) -> None:
        options = ClaudeAgentOptions(cwd=tmp_path, session_store=store, session_store_flush=flush)
        for number in range(3):
            told = [each async for each in query(prompt="?", options=options, transport=Scripted(transcript, number))]
            assert [type(each).__name__ for each in told] == ["ResultMessage"]
        options.continue_conversation = True
        resumed = await materialize_resume_session(options)

        assert resumed is not None
        assert resumed.resume_session_id == SESSION
        main = resumed.config_dir / transcript.relative_to(config)
        for file in (main, main.with_suffix("") / "subagents" / "agent-a.jsonl"):
            assert [json.loads(line) for line in file.read_text().splitlines()] == entries(0, 1, 2)
        await resumed.cleanup()

    run(url, test, cap=5)


def test_the_sdks_own_functions_work_with_the_store(url: str, config: Path, tmp_path: Path) -> None:
    directory = str(tmp_path)
    transcript = config / "projects" / project_key_for_directory(directory) / f"{SESSION}.jsonl"
    sub = transcript.with_suffix("") / "subagents" / "agent-a.jsonl"
    sub.parent.mkdir(parents=True)
    transcript.write_text("".join(json.dumps(each) + "\n" for each in entries(*range(30))))
    sub.write_text("".join(json.dumps(each) + "\n" for each in entries(0)))
    sub.with_suffix(".meta.json").write_text('{"agentType": "explore"}')

    async def test(manager: AsyncSessionManager, store: StoredSessionStore) -> None:
        for batch_size in (50, 7):
            await import_session_to_store(SESSION, store, directory=directory, batch_size=batch_size)
        await rename_session_via_store(store, SESSION, "Trip", directory)
        await tag_session_via_store(store, SESSION, "summer", directory)
        fork = await fork_session_via_store(store, SESSION, directory, title="Again")

        listed = {each.session_id: each for each in await list_sessions_from_store(store, directory)}
        info = await get_session_info_from_store(store, SESSION, directory)
        assert info is not None
        assert (info.summary, info.first_prompt) == ("Trip", listed[SESSION].first_prompt)
        assert (listed[SESSION].summary, listed[SESSION].tag) == ("Trip", "summer")
        assert listed[fork.session_id].summary == "Again"
        for session_id in listed:
            assert len(await get_session_messages_from_store(store, session_id, directory)) == 120
        assert await list_subagents_from_store(store, SESSION, directory) == ["a"]
        assert len(await get_subagent_messages_from_store(store, SESSION, "a", directory)) == 4
        await delete_session_via_store(store, SESSION, directory)
        assert [each.session_id for each in await list_sessions_from_store(store, directory)] == [fork.session_id]
        assert len(await manager.list()) == 1

    run(url, test)
