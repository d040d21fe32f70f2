"""The sessions of the OpenAI Agents SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest
from agents import Agent, RunConfig, Runner, Session, SessionSettings, TResponseInputItem, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from openai.types.responses import ResponseReasoningItem

from sessions_db import AsyncSessionManager, InvalidInput, SessionNotFound
from sessions_db.integrations.openai_agents import PAYLOAD, StoredSession

Item = dict[str, Any]

KEY = "agent:main:conversation:s"
NO_TRACES = RunConfig(tracing_disabled=True)


def run(url: str, test: Callable[[AsyncSessionManager, Session], Awaitable[None]], cap: int = 100) -> None:
    async def opened() -> None:
        async with AsyncSessionManager(url, message_cap=cap) as manager:
            await test(manager, StoredSession("s", manager))
            assert not manager.closed

    asyncio.run(opened())


def typed(items: Sequence[Item]) -> list[TResponseInputItem]:
    return cast(list[TResponseInputItem], [*items])


def said(role: str, content: object, **more: object) -> Item:
    return {"role": role, "content": content, **more}


def call(number: int, **more: object) -> Item:
    return {"type": "function_call", "call_id": f"c{number}", "name": "look_up", "arguments": "{}", **more}


def output(number: int, text: object = "sunny") -> Item:
    return {"type": "function_call_output", "call_id": f"c{number}", "output": text}


def thought(number: int) -> Item:
    return {"type": "reasoning", "id": f"rs_{number}", "summary": [{"type": "summary_text", "text": "hm"}]}


def answer(text: str) -> Item:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}


PROGRAM = {"type": "program", "caller_id": "p1"}

# Each with the role, tool name and content that people read.
ITEMS: list[tuple[Item, str, str | None, str]] = [
    (said("user", "Hello"), "user", None, "Hello"),
    (said("user", "", type="message"), "user", None, ""),
    (said("system", "Be kind"), "system", None, "Be kind"),
    (said("developer", [{"type": "input_text", "text": "Be brief"}]), "system", None, "Be brief"),
    (
        said("user", [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "data:,x"}]),
        "user",
        None,
        "a",
    ),
    (answer("Hi"), "assistant", None, "Hi"),
    (said("assistant", [{"type": "refusal", "refusal": "No"}], type="message", id="m"), "assistant", None, "No"),
    (thought(1), "assistant", None, "hm"),
    ({"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAAA"}, "assistant", None, ""),
    (call(1, id="fc_1", status="completed"), "assistant", "look_up", "{}"),
    (output(1), "tool", "look_up", "sunny"),
    (output(1, [{"type": "input_text", "text": "x"}, {"type": "input_text", "text": "y"}]), "tool", "look_up", "x\ny"),
    (
        {"type": "custom_tool_call", "call_id": "c2", "name": "sh", "input": "ls", "caller": PROGRAM},
        "assistant",
        "sh",
        "ls",
    ),
    ({"type": "custom_tool_call_output", "call_id": "c2", "output": "a b"}, "tool", "sh", "a b"),
    ({"type": "function_call_output", "output": "?", "name": "other"}, "tool", "other", "?"),
    (
        {"type": "shell_call", "call_id": "c3", "action": {"commands": ["ls"]}},
        "assistant",
        "shell",
        '{"commands": ["ls"]}',
    ),
    (
        {"type": "shell_call_output", "call_id": "c3", "output": [{"stdout": "out", "stderr": "err", "outcome": {}}]},
        "tool",
        "shell",
        "out\nerr",
    ),
    ({"type": "local_shell_call", "id": "l", "call_id": "c4", "action": {}}, "assistant", "local_shell", "{}"),
    ({"type": "local_shell_call_output", "id": "c4", "output": "out"}, "tool", "local_shell", "out"),
    (
        {"type": "apply_patch_call", "call_id": "c5", "operation": {"path": "ä"}},
        "assistant",
        "apply_patch",
        '{"path": "ä"}',
    ),
    ({"type": "apply_patch_call_output", "call_id": "c5", "status": "failed"}, "tool", "apply_patch", ""),
    ({"type": "computer_call", "id": "x", "call_id": "c6", "actions": [{}]}, "assistant", "computer", "[{}]"),
    (
        {
            "type": "computer_call_output",
            "call_id": "c6",
            "output": {"type": "computer_screenshot", "image_url": "data:"},
        },
        "tool",
        "computer",
        "",
    ),
    ({"type": "web_search_call", "id": "w", "action": {"query": "q"}}, "assistant", "web_search", '{"query": "q"}'),
    (
        {"type": "file_search_call", "id": "f", "queries": ["q"], "results": [{"text": "t", "score": 0.5}]},
        "assistant",
        "file_search",
        '["q"]\nt',
    ),
    (
        {"type": "code_interpreter_call", "id": "i", "code": "1", "outputs": [{"type": "logs", "logs": "2"}]},
        "assistant",
        "code_interpreter",
        "1\n2",
    ),
    (
        {"type": "image_generation_call", "id": "g", "result": "iVBORw0", "revised_prompt": "a cat"},
        "assistant",
        "image_generation",
        "a cat",
    ),
    ({"type": "tool_search_call", "call_id": None, "arguments": {"q": 1}}, "assistant", "tool_search", '{"q": 1}'),
    ({"type": "tool_search_output", "call_id": None, "tools": []}, "tool", "tool_search", ""),
    ({"type": "mcp_list_tools", "id": "t", "server_label": "s", "tools": []}, "assistant", None, ""),
    ({"type": "mcp_approval_request", "id": "r", "name": "rm", "arguments": "{}"}, "assistant", "rm", "{}"),
    (
        {"type": "mcp_approval_response", "approval_request_id": "r", "approve": False, "reason": "no"},
        "user",
        None,
        "false\nno",
    ),
    ({"type": "mcp_call", "id": "m", "name": "rm", "arguments": "{}", "output": "ok"}, "assistant", "rm", "{}\nok"),
    ({"type": "program", "id": "p", "call_id": "p1", "code": "1", "fingerprint": "x"}, "assistant", None, "1"),
    ({"type": "program_output", "id": "o", "call_id": "p1", "result": "1"}, "tool", "program", "1"),
    ({"type": "compaction", "encrypted_content": "gAAAA"}, "assistant", None, ""),
    ({"type": "item_reference", "id": "msg_1"}, "assistant", None, ""),
    ({"type": "additional_tools", "role": "developer", "tools": []}, "system", None, ""),
    ({}, "assistant", None, ""),
    (
        {"type": ["?"], "role": {}, "content": 1.0, "provider_data": {"z": [None, 1.0, True], "a": 10**30}},
        "assistant",
        None,
        "",
    ),
]


def test_items_of_all_kinds_come_back_as_they_were_and_are_readable(url: str) -> None:
    items = [item for item, *_ in ITEMS]

    async def test(manager: AsyncSessionManager, session: Session) -> None:
        await session.add_items(typed(items))

        found = await session.get_items()
        assert found == items
        assert [[*item] for item in found] == [[*item] for item in items]
        stored = await manager.history(KEY, include_tools=True) or []
        assert [(each.role, each.tool_name, each.content) for each in stored] == [(*read,) for _, *read in ITEMS]
        assert stored[0].metadata == {PAYLOAD: items[0]}

    run(url, test)


def nested(levels: int) -> Item:
    value: Any = []
    for _ in range(levels - 2):
        value = [value]
    return said("user", "x", provider_data=value)


def test_items_that_the_database_cannot_hold_come_back_as_they_were(url: str) -> None:
    items = [
        said("user", "NUL \0, lone \ud800"),
        said("user", "x", **{"\udfff": float("inf")}),
        said("user", "x", big=1 << 14_200),
        nested(500),
        call(1, name="look\0up" + 300 * "x"),
    ]

    async def test(manager: AsyncSessionManager, session: Session) -> None:
        await session.add_items(typed(items))

        assert await session.get_items() == items
        stored = await manager.history(KEY) or []
        assert [each.content for each in stored] == ["NUL \ufffd, lone ?", "x", "x", "x", "{}"]
        assert [str((each.metadata or {})[PAYLOAD]).isascii() for each in stored] == 5 * [True]

    run(url, test)


def test_a_run_remembers_whole_turns_across_the_cap(url: str) -> None:
    @function_tool
    def look_up() -> str:
        return "sunny"

    async def test(manager: AsyncSessionManager, session: Session) -> None:
        model = ScriptedModel()
        agent = Agent(name="a", model=model, tools=[look_up])
        for number, question in enumerate(("one", "two", "three")):
            reasoning = ResponseReasoningItem(id=f"rs_{number}", type="reasoning", summary=[])
            model.enqueue([reasoning, function_call("look_up", {}, call_id=f"c{number}", item_id=f"fc_{number}")])
            model.enqueue([assistant_message("It is sunny", item_id=f"msg_{number}")])
            result = await Runner.run(agent, question, session=session, run_config=NO_TRACES)
            assert result.final_output == "It is sunny"
        stored = await manager.history(KEY, include_tools=True) or []

        assert [message.seq for message in stored] == [9, 10, 11, 12, 13, 14, 15]
        assert [(each.role, each.content, each.tool_name) for each in stored[-5:]] == [
            ("user", "three", None),
            ("assistant", "", None),
            ("assistant", "{}", "look_up"),
            ("tool", "sunny", "look_up"),
            ("assistant", "It is sunny", None),
        ]
        # The cap has cut the first turn, and its rest is not shown.
        kinds = [each.get("content") if "role" in each else each["type"] for each in model.calls[-2].input]
        assert [*kinds[:4], *kinds[5:]] == ["two", "reasoning", "function_call", "function_call_output", "three"]

    run(url, test, cap=7)


@pytest.mark.parametrize(
    ("items", "kept"),
    [
        # The whole turns that are left. A summary stands for what was before it.
        ([output(1), answer("1"), said("user", "2"), answer("2")], [2, 3]),
        ([output(1), answer("1"), said("developer", "2"), output(1)], [2]),
        ([answer("1"), {"type": "compaction", "encrypted_content": "x"}, answer("2")], [1, 2]),
        # No turn is left.
        ([output(1), output(2), call(3), output(3), answer("1")], [2, 3, 4]),
        ([call(2), output(1), output(2), thought(3), answer("1")], [0, 2, 3, 4]),
        # What has an id may belong to a reasoning item that is gone, up to the next output or reasoning item.
        ([call(2, id="fc_2"), output(1), output(2), call(3, id="fc_3"), output(3)], [3, 4]),
        ([call(1, id="fc_1"), thought(2), call(2, id="fc_2"), output(1), output(2)], [1, 2, 4]),
        ([answer("1")], []),
        # Reasoning belongs to what follows it.
        ([output(1), thought(2), call(2, caller=PROGRAM), output(2)], []),
        ([output(1), thought(2)], []),
        ([{"type": "mcp_approval_response", "approval_request_id": "r"}, thought(1), call(1)], [1, 2]),
        (
            [{"type": "local_shell_call_output", "id": "c"}, {"type": "tool_search_output"}, said("assistant", "x")],
            [1, 2],
        ),
        ([{"unknown": 1}, {"type": "function_call_output"}], [0, 1]),
    ],
)
def test_after_trimming_only_what_the_api_takes_is_left(url: str, items: list[Item], kept: list[int]) -> None:
    async def test(_: AsyncSessionManager, session: Session) -> None:
        await session.add_items(typed([said("user", "1"), *items]))

        assert await session.get_items() == [items[at] for at in kept]
        assert await session.get_items(limit=50) == items

    run(url, test, cap=len(items))


def test_a_limit_gives_exactly_the_newest(url: str) -> None:
    items = [said("user", "1"), call(1), output(1), answer("1")]

    async def test(manager: AsyncSessionManager, session: Session) -> None:
        await session.add_items(typed(items))
        await manager.add_message(KEY, "tool", "no item", tool_name="other")

        for limit in (0, 1, 2, 3, 4, 9):
            assert await session.get_items(limit) == items[4 - min(limit, 4) :]
        for settings in (SessionSettings(limit=2), {"limit": 2}):
            limited = StoredSession("s", manager, session_settings=settings)
            assert limited.session_settings == SessionSettings(limit=2)
            assert await limited.get_items() == items[2:]
            assert await limited.get_items(3) == items[1:]
        with pytest.raises(InvalidInput):
            await session.get_items(-1)

    run(url, test)


def test_items_are_popped_and_cleared(url: str) -> None:
    async def test(manager: AsyncSessionManager, session: Session) -> None:
        assert await session.pop_item() is None
        await session.clear_session()
        await session.add_items(typed([said("user", "1"), call(1), output(1)]))
        await manager.add_message(KEY, "tool", "no item", tool_name="other")

        assert await session.pop_item() == output(1)
        assert await session.get_items() == [said("user", "1"), call(1)]
        await session.clear_session()
        await session.clear_session()
        assert (await session.get_items(), await session.pop_item()) == ([], None)
        # They are not taken for the rest of a turn that was trimmed.
        await session.add_items(typed([output(1), answer("1")]))
        assert await session.get_items() == [output(1), answer("1")]
        await session.add_items(typed(3 * [answer("2")]))
        assert await session.get_items() == []
        while await session.pop_item():
            pass
        await session.add_items(typed([answer("3")]))
        assert await session.get_items() == [answer("3")]

    run(url, test, cap=4)


def test_what_others_sent_is_heard_and_what_was_redacted_leaves_a_history_that_the_api_takes(url: str) -> None:
    turn = [thought(1), call(1, id="fc_1"), output(1), thought(2), answer("1")]

    async def test(manager: AsyncSessionManager, session: Session) -> None:
        await session.add_items(typed([said("user", "1"), *turn, said("user", "2"), *turn]))
        await manager.send_message(KEY, "Hurry", metadata={PAYLOAD: "no item of the SDK"})
        for seq in (2, 12):
            await manager.redact_message(KEY, seq, reason="private")

        redacted = said("assistant", "[redacted]")
        assert await session.get_items() == [
            *(said("user", "1"), redacted, thought(2), answer("1")),
            *(said("user", "2"), thought(1), call(1, id="fc_1"), output(1), redacted),
            said("user", "Hurry"),
        ]

    run(url, test)


def test_the_tool_of_an_output_is_that_of_an_earlier_call(url: str) -> None:
    async def test(manager: AsyncSessionManager, session: Session) -> None:
        await session.add_items(typed([call(1), call(2)]))
        await session.add_items(typed([output(2), output(3)]))

        stored = await manager.history(KEY, include_tools=True) or []
        assert [message.tool_name for message in stored] == ["look_up", "look_up", "look_up", None]

    run(url, test)


def test_a_key_names_a_session_that_exists(url: str) -> None:
    async def test(manager: AsyncSessionManager, session: Session) -> None:
        main = await manager.get_or_create_main("other")
        by_key, missing = StoredSession(main.key, manager), StoredSession(KEY, manager)
        await by_key.add_items(typed([said("user", "1")]))
        await StoredSession("s", manager, agent_id="other").add_items(typed([said("user", "2")]))
        await session.add_items([])

        assert by_key.session_id == main.key
        assert await by_key.get_items() == [said("user", "1")]
        assert await session.get_items() == []
        assert {each.key for each in await manager.list()} == {main.key, "agent:other:conversation:s"}
        for missed in (
            *(missing.get_items(), missing.get_items(1), missing.pop_item(), missing.clear_session()),
            missing.add_items(typed([said("user", "1")])),
        ):
            with pytest.raises(SessionNotFound):
                await missed

    run(url, test)


def test_wrong_input_is_refused_and_nothing_is_stored(url: str) -> None:
    async def test(manager: AsyncSessionManager, session: Session) -> None:
        cyclic: Item = {}
        cyclic["self"] = cyclic
        wrong: list[Any] = [
            "text",
            None,
            [],
            {1: "x"},
            {"x": object()},
            {"x": {1}},
            cyclic,
            nested(501),
            nested(100_000),
        ]
        for item in wrong:
            with pytest.raises(InvalidInput, match=r"items\[1\]"):
                await session.add_items([cast(TResponseInputItem, said("user", "good")), item])
        for items in ("text", None, {"role": "user"}):
            with pytest.raises(InvalidInput):
                await session.add_items(cast(Any, items))
        for arguments in (("", manager), ("a\0", manager), (1, manager), ("s", None), ("agent:" + 3000 * "x", manager)):
            with pytest.raises(InvalidInput):
                StoredSession(*cast(Any, arguments))
        for more in ({"agent_id": "a:b"}, {"session_settings": 1}, {"session_settings": {"limits": 1}}):
            with pytest.raises(InvalidInput):
                StoredSession("s", manager, **cast(Any, more))

        assert await manager.list() == []

    run(url, test)
