"""The history of Microsoft Agent Framework's agents."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest
from agent_framework import (
    Agent,
    AgentSession,
    BaseChatClient,
    ChatMiddlewareLayer,
    ChatResponse,
    Content,
    FunctionInvocationLayer,
    HistoryProvider,
    Message,
)

from sessions_db import AsyncSessionManager, InvalidInput
from sessions_db.integrations.agent_framework import PAYLOAD, StoredHistoryProvider

CALL = Content.from_function_call("call-1", "look_up", arguments='{"city": "Porto"}')
RESULT = Content.from_function_result("call-1", result="sunny")
KEY = "agent:main:conversation:s"


class Scripted(FunctionInvocationLayer, ChatMiddlewareLayer, BaseChatClient):
    """A model that asks for the tool after each question, and answers with its result."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[Message]] = []

    def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool, options: Mapping[str, object], **kwargs: object
    ) -> Awaitable[ChatResponse]:
        async def respond() -> ChatResponse:
            self.seen.append([*messages])
            last = messages[-1]
            if last.role == "tool":
                return ChatResponse(messages=[Message("assistant", [f"It is {last.contents[0].result}"])])
            call = Content.from_function_call(f"call-{len(self.seen)}", "look_up", arguments="{}")
            return ChatResponse(messages=[Message("assistant", [call])])

        return respond()


def look_up() -> str:
    return "sunny"


def run(
    url: str, test: Callable[[AsyncSessionManager, StoredHistoryProvider], Awaitable[None]], cap: int = 100
) -> None:
    async def opened() -> None:
        async with AsyncSessionManager(url, message_cap=cap) as manager:
            await test(manager, StoredHistoryProvider(manager))
            assert not manager.closed

    asyncio.run(opened())


def dicts(messages: Sequence[Message]) -> list[dict[str, object]]:
    return [message.to_dict() for message in messages]


@pytest.mark.parametrize("after_each_call", [False, True])
def test_an_agent_remembers_whole_turns_across_the_cap(url: str, after_each_call: bool) -> None:
    async def test(manager: AsyncSessionManager, history: HistoryProvider) -> None:
        client = Scripted()
        agent = Agent(
            client,
            tools=[look_up],
            context_providers=[history],
            require_per_service_call_history_persistence=after_each_call,
        )
        for question in ("one", "two", "three"):
            answer = await agent.run(question, session=AgentSession(session_id="s"))
            assert answer.text == "It is sunny"
        stored = await manager.history(KEY, include_tools=True) or []

        assert [message.seq for message in stored] == [7, 8, 9, 10, 11, 12]
        assert [(each.role, each.content, each.tool_name) for each in stored[-4:]] == [
            ("user", "three", None),
            ("assistant", "", None),
            ("tool", "sunny", "look_up"),
            ("assistant", "It is sunny", None),
        ]
        assert [message.text for message in client.seen[2]] == ["one", "", "", "It is sunny", "two"]
        # The cap has cut the first question off its answer, and the rest of that turn is not shown.
        assert [message.text for message in client.seen[4]] == ["two", "", "", "It is sunny", "three"]

    run(url, test, cap=6)


@pytest.mark.parametrize(
    "message",
    [
        Message("user", ["Hello", Content.from_uri("https://example.com/a.png", media_type="image/png")]),
        Message("assistant", [Content.from_text_reasoning(text="hm"), "Hi"], author_name="a", message_id="m"),
        Message("user", ["NUL \0, lone \ud800"], additional_properties={"lone": "\udfff", "deep": [1.0, {"a": None}]}),
        Message("user", ["x"], additional_properties={"infinite": float("inf")}),
        Message("developer", ["Be brief"]),
        Message("critic", ["No"]),
        Message("user", []),
    ],
)
def test_a_message_comes_back_as_it_was(url: str, message: Message) -> None:
    async def test(_: AsyncSessionManager, history: HistoryProvider) -> None:
        await history.save_messages("s", [message])

        assert dicts(await history.get_messages("s")) == dicts([message])

    run(url, test)


def test_a_tool_message_comes_back_with_its_call(url: str) -> None:
    turn = [Message("user", ["?"]), Message("assistant", ["Wait", CALL]), Message("tool", [RESULT])]

    async def test(manager: AsyncSessionManager, history: HistoryProvider) -> None:
        await history.save_messages("s", turn)

        assert dicts(await history.get_messages("s")) == dicts(turn)
        stored = await manager.history(KEY, include_tools=True) or []
        assert [(each.role, each.content, each.tool_name) for each in stored] == [
            ("user", "?", None),
            ("assistant", "Wait", None),
            ("tool", "sunny", "look_up"),
        ]
        assert stored[2].metadata == {PAYLOAD: turn[2].to_dict()}

    run(url, test)


def test_without_a_question_left_only_answers_to_dropped_calls_are_left_out(url: str) -> None:
    async def test(_: AsyncSessionManager, history: HistoryProvider) -> None:
        await history.save_messages(
            "s", [Message("user", ["?"]), Message("assistant", [CALL]), Message("tool", [RESULT])]
        )
        await history.save_messages("s", [Message("assistant", ["sunny"])])

        assert [message.text for message in await history.get_messages("s")] == ["sunny"]

    run(url, test, cap=2)


@pytest.mark.parametrize(("cap", "heard"), [(5, 5), (4, 4), (3, 1)])
def test_an_approval_is_not_heard_without_its_request(url: str, cap: int, heard: int) -> None:
    request = Content.from_function_approval_request("request-1", CALL)

    async def test(_: AsyncSessionManager, history: HistoryProvider) -> None:
        await history.save_messages("s", [Message("user", ["?"]), Message("assistant", [CALL, request])])
        await history.save_messages("s", [Message("user", [request.to_function_approval_response(True)])])
        await history.save_messages("s", [Message("tool", [RESULT]), Message("assistant", ["sunny"])])

        assert len(await history.get_messages("s")) == heard

    run(url, test, cap=cap)


def test_what_others_sent_is_heard(url: str) -> None:
    async def test(manager: AsyncSessionManager, history: HistoryProvider) -> None:
        await history.save_messages("s", [Message("user", ["Hello"])])
        await manager.send_message(KEY, "Hurry")
        await manager.add_message(KEY, "tool", "no call", tool_name="other")

        assert [(each.role, each.text) for each in await history.get_messages("s")] == [
            ("user", "Hello"),
            ("user", "Hurry"),
        ]

    run(url, test)


def test_sessions_are_conversations_of_their_agent(url: str) -> None:
    async def test(manager: AsyncSessionManager, history: HistoryProvider) -> None:
        other = StoredHistoryProvider(manager, "other")
        await history.save_messages("s", [Message("user", ["Hello"])])
        await history.save_messages("s", [])

        assert await other.get_messages("s") == []
        assert [session.key for session in await manager.list()] == [KEY]

    run(url, test)


def test_wrong_input_is_refused_and_nothing_is_stored(url: str) -> None:
    async def test(manager: AsyncSessionManager, history: HistoryProvider) -> None:
        good, cyclic = Message("user", ["good"]), Message("user", ["x"])
        cyclic.additional_properties["self"] = loop = []  # type: ignore[var-annotated]
        loop.append(loop)
        no_json = Message("tool", [Content.from_function_result("call-1", result="x")])
        no_json.contents[0].result = object()
        unnamed: Any = ["c"]
        calls = (Content.from_function_call(unnamed, "f"), Content.from_function_call("c", unnamed))
        named = [Message(unnamed, ["x"]), *(Message("assistant", [call]) for call in calls)]
        refused = [(None, good), ("", good), *(("s", wrong) for wrong in (cyclic, no_json, "text", None, *named))]
        for session_id, message in refused:
            with pytest.raises(InvalidInput):
                await history.save_messages(session_id, [good, message])  # type: ignore[list-item]
        with pytest.raises(InvalidInput):
            await history.get_messages(None)
        for messages in ("text", None, 5):
            with pytest.raises(InvalidInput):
                await history.save_messages("s", messages)  # type: ignore[arg-type]
        for arguments in ((manager, "a:b"), (None, "a")):
            with pytest.raises(InvalidInput):
                StoredHistoryProvider(*arguments)

        assert await manager.list() == []

    run(url, test)
