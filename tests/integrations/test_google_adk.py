"""The sessions of Google's Agent Development Kit. Importing it takes seconds, so all its tests are in this module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from google.adk.agents import LlmAgent
from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events import Event, EventActions
from google.adk.models import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import Runner
from google.adk.sessions import Session
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.tools.tool_confirmation import ToolConfirmation
from google.adk.tools.tool_context import ToolContext
from google.genai.types import Blob, Content, FunctionCall, FunctionResponse, Part, Transcription
from pydantic import PrivateAttr

from sessions_db import AsyncSessionManager, InvalidInput
from sessions_db.integrations.google_adk import PAYLOAD, StoredSessionService
from sessions_db.validation import JsonValue

WHO: Any = {"app_name": "travel", "user_id": "ann"}
KEY = "agent:travel:conversation:session:ann:s"
CYCLIC: dict[str, object] = {}
CYCLIC["self"] = CYCLIC


class Scripted(BaseLlm):
    """A model that asks for the tool after each question, and answers with its result."""

    _seen: list[list[Content]] = PrivateAttr(default_factory=list)

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        self._seen.append(llm_request.contents)
        last = (llm_request.contents[-1].parts or [])[-1]
        if last.function_response is not None and last.function_response.response is not None:
            part = Part(text=f"It is {last.function_response.response['result']}")
        else:
            part = Part(function_call=FunctionCall(name="look_up", args={"city": "Porto"}))
        yield LlmResponse(content=Content(role="model", parts=[part]))

    @property
    def seen(self) -> list[list[str]]:
        """What each call was given: texts, and the names of what is no text."""
        return [[_shown(part) for each in call for part in each.parts or []] for call in self._seen]


def _shown(part: Part) -> str:
    return part.text or ("call" if part.function_call else "result")


def look_up(city: str, tool_context: ToolContext) -> str:
    state = tool_context.state
    state["city"] = state["user:city"] = state["app:city"] = state["temp:city"] = city
    state["count"] = state.get("count", 0) + 1
    return "sunny"


def run(url: str, test: Callable[[AsyncSessionManager, StoredSessionService], Awaitable[None]], cap: int = 100) -> None:
    async def opened() -> None:
        async with AsyncSessionManager(url, message_cap=cap) as manager:
            await test(manager, StoredSessionService(manager))
            assert not manager.closed

    asyncio.run(opened())


def says(author: str, *parts: Part | str, **more: Any) -> Event:
    content = Content(
        role="user" if author == "user" else "model",
        parts=[Part(text=part) if isinstance(part, str) else part for part in parts],
    )
    return Event(author=author, invocation_id="turn", content=content, **more)


def changes(**state: object) -> Event:
    return Event(author="travel", actions=EventActions(state_delta=state))


async def ask(runner: Runner, question: str) -> str:
    message = Content(role="user", parts=[Part(text=question)])
    events = [event async for event in runner.run_async(user_id="ann", session_id="s", new_message=message)]
    content = events[-1].content
    assert content is not None
    assert content.parts
    return content.parts[0].text or ""


async def read(service: StoredSessionService, session_id: str = "s", **config: Any) -> Session:
    session = await service.get_session(**WHO, session_id=session_id, config=GetSessionConfig(**config))
    assert session is not None
    return session


def test_an_agent_remembers_whole_turns_across_the_cap(url: str) -> None:
    async def test(manager: AsyncSessionManager, service: StoredSessionService) -> None:
        model = Scripted(model="scripted")
        agent = LlmAgent(name="guide", model=model, tools=[look_up])
        runner = Runner(app_name="travel", agent=agent, session_service=service)
        await service.create_session(**WHO, session_id="s")
        for question in ("one", "two", "three"):
            assert await ask(runner, question) == "It is sunny"
        stored = await manager.history(KEY, include_tools=True) or []

        assert [message.seq for message in stored] == [7, 8, 9, 10, 11, 12]
        assert [(each.role, each.content, each.tool_name) for each in stored[-4:]] == [
            ("user", "three", None),
            ("assistant", "", None),
            ("tool", '{"result": "sunny"}', "look_up"),
            ("assistant", "It is sunny", None),
        ]
        assert model.seen[2] == ["one", "call", "result", "It is sunny", "two"]
        # The cap has cut the first question off its answer, and the rest of that turn is not shown.
        assert model.seen[4] == ["two", "call", "result", "It is sunny", "three"]
        session = await read(service)
        assert session.state == {"city": "Porto", "count": 3, "user:city": "Porto", "app:city": "Porto"}
        assert session.last_update_time == session.events[-1].timestamp

    run(url, test, cap=6)


def test_a_model_never_gets_a_result_without_its_call(url: str) -> None:
    async def test(_: AsyncSessionManager, service: StoredSessionService) -> None:
        session = await service.create_session(**WHO, session_id="s")
        call, result = FunctionCall(id="1", name="look_up"), FunctionResponse(id="1", name="look_up", response={})
        for event in (
            says("user", "?"),
            says("guide", Part(function_call=call)),
            says("guide", Part(function_response=result)),
        ):
            await service.append_event(session, event)
        # No question is left, so that nothing is left out of the session itself.
        assert len((await read(service)).events) == 1
        model = Scripted(model="scripted")
        agent = LlmAgent(name="guide", model=model, tools=[look_up])
        await ask(Runner(app_name="travel", agent=agent, session_service=service), "next")

        assert model.seen[0] == ["next"]

    run(url, test, cap=1)


def nested(depth: int) -> object:
    value: object = "end"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "event",
    [
        says("user", "Hello", Part(inline_data=Blob(data=b"\0\xff", mime_type="image/png"))),
        says("guide", "NUL \0, lone \ud800", custom_metadata={"lone": "\udfff", "deep": nested(120)}),
        says(
            "guide", Part(function_response=FunctionResponse(id="1", name="a\0b", response={"r": None, "n": 10**400}))
        ),
        says("guide", Part(text="hm", thought=True, thought_signature=b"\xfe"), long_running_tool_ids={"b", "a"}),
        Event(author="user", input_transcription=Transcription(text="spoken", finished=True), timestamp=1.5),
        Event(
            author="guide",
            actions=EventActions(
                state_delta={"none": None, "object": {"a": None}, "nul": "\0", "deep": nested(120), "user:x": ["y"]},
                requested_tool_confirmations={"1": ToolConfirmation(hint="Sure?", payload={"a": 1})},
                artifact_delta={"file": 0},
                escalate=True,
            ),
        ),
    ],
)
def test_an_event_comes_back_as_it_was(url: str, event: Event) -> None:
    async def test(_: AsyncSessionManager, service: StoredSessionService) -> None:
        session = await service.create_session(**WHO, session_id="s")

        assert await service.append_event(session, event) is event
        assert session.events == [event]
        assert await read(service) == session

    run(url, test)


def test_a_reader_of_the_table_sees_what_was_said_and_by_which_tool(url: str) -> None:
    called = says("guide", Part(text="hm", thought=True), "Wait", Part(function_call=FunctionCall(name="look_up")))
    results = [FunctionResponse(name=name, response={"at": "São João"}) for name in ("look_up", "book")]

    async def test(manager: AsyncSessionManager, service: StoredSessionService) -> None:
        session = await service.create_session(**WHO, session_id="s")
        await service.append_event(session, called)
        await service.append_event(session, says("guide", Part(function_response=results[0])))
        await service.append_event(session, says("user", *(Part(function_response=result) for result in results)))
        await service.append_event(session, Event(author="guide", output_transcription=Transcription(text="spoken")))
        stored = await manager.history(KEY, include_tools=True) or []

        assert [(each.role, each.content, each.tool_name) for each in stored] == [
            ("assistant", "Wait", None),
            ("tool", '{"at": "São João"}', "look_up"),
            ("tool", '{"at": "São João"}\n{"at": "São João"}', None),
            ("assistant", "spoken", None),
        ]
        assert stored[0].metadata == {PAYLOAD: called.model_dump(mode="json", exclude_none=True)}

    run(url, test)


def test_state_is_replaced_key_by_key_and_shared_by_its_prefix(url: str) -> None:
    async def test(manager: AsyncSessionManager, service: StoredSessionService) -> None:
        first = {"own": {"a": 1}, "user:u": {"a": 1}, "app:p": "\0", "temp:t": 1, "none": 1}
        session = await service.create_session(**WHO, session_id="s", state=first)
        assert session.state == {"own": {"a": 1}, "user:u": {"a": 1}, "app:p": "\0", "none": 1}
        later: dict[str, object] = {"own": {"b": 2}, "none": None, "temp:t": 2, "temp:c": CYCLIC, "user:v": []}
        await service.append_event(session, changes(**later))

        assert session.state.pop("temp:t") == 2
        assert session.state.pop("temp:c") is CYCLIC
        assert session.events[0].actions.state_delta == {"own": {"b": 2}, "none": None, "user:v": []}
        assert await read(service) == session
        shared = {"user:u": {"a": 1}, "user:v": [], "app:p": "\0"}
        assert session.state == {"own": {"b": 2}, "none": None} | shared
        assert (await service.create_session(**WHO, session_id="other")).state == shared
        stranger = await service.create_session(app_name="travel", user_id="bob", state={"user:u": 3})
        assert stranger.state == {"user:u": 3, "app:p": "\0"}
        assert await service.get_user_state(**WHO) == {"u": {"a": 1}, "v": []}
        assert await service.get_user_state(app_name="other", user_id="ann") == {}
        conversation = await manager.get("agent:travel:conversation:user:ann")
        assert conversation is not None
        assert conversation.metadata == {PAYLOAD: {"state": {"u": [{"a": 1}], "v": [[]]}}}

        await service.delete_session(**WHO, session_id="s")
        assert await service.get_session(**WHO, session_id="s") is None
        assert await service.get_user_state(**WHO) == {"u": {"a": 1}, "v": []}
        await service.delete_session(**WHO, session_id="s")
        for gone in (session, Session(**WHO, id="never")):
            with pytest.raises(SessionNotFoundError):
                await service.append_event(gone, changes(late=True))

    run(url, test)


def test_a_stale_session_is_refused_and_nothing_of_the_event_is_stored(url: str) -> None:
    async def test(_: AsyncSessionManager, service: StoredSessionService) -> None:
        session = await service.create_session(**WHO, session_id="s")
        stale = [await read(service), Session.model_validate_json(session.model_dump_json())]
        await service.append_event(session, says("user", "Hello"))
        copied = Session.model_validate_json(session.model_dump_json())
        for old in stale:
            with pytest.raises(StaleSessionError, match="modified in storage"):
                await service.append_event(old, changes(**{"own": 1, "user:u": 1, "app:p": 1, "temp:t": 1}))
            assert (old.events, old.state) == ([], {})
        assert await read(service) == session

        again = Session.model_validate_json(copied.model_dump_json())
        await service.append_event(copied, says("guide", "Hi", timestamp=5.0))
        with pytest.raises(StaleSessionError):
            await service.append_event(again, says("guide", "Hi"))
        partly = Session.model_validate_json((await read(service, num_recent_events=0)).model_dump_json())
        await service.append_event(partly, says("user", "Go on"))
        assert [event.author for event in (await read(service)).events] == ["user", "guide", "user"]

    run(url, test)


def test_appends_to_one_session_take_turns(url: str) -> None:
    async def test(_: AsyncSessionManager, service: StoredSessionService) -> None:
        sessions = [await service.create_session(**WHO, session_id=name) for name in ("s", "other")]
        events = [changes(**{f"own{n}": n, f"user:u{n}": n, f"app:p{n}": n}) if n % 2 else says("a") for n in range(8)]
        await asyncio.gather(
            *(service.append_event(session, event) for event in events for session in sessions),
            # Repeated by a caller that did not hear of the first.
            service.append_event(sessions[0], events[1].model_copy(deep=True)),
        )

        found = [await read(service, session.id) for session in sessions]
        assert [session.events for session in found] == [events, events]
        assert all(session.state == sessions[0].state and len(session.state) == 12 for session in found)

    run(url, test)


def test_only_one_of_those_who_append_to_copies_is_heard(url: str) -> None:
    async def test(_: AsyncSessionManager, service: StoredSessionService) -> None:
        session = await service.create_session(**WHO, session_id="s")
        copies = [session.model_copy(deep=True) for _ in range(4)]
        answers = await asyncio.gather(
            *(service.append_event(copy, changes(**{str(at): at})) for at, copy in enumerate(copies)),
            return_exceptions=True,
        )

        assert sorted(type(answer) is StaleSessionError for answer in answers) == [False, True, True, True]
        found = await read(service)
        (event,) = found.events
        assert found.state == event.actions.state_delta

    run(url, test)


def test_a_session_is_created_once(url: str) -> None:
    async def test(_: AsyncSessionManager, service: StoredSessionService) -> None:
        made = await asyncio.gather(
            *(
                service.create_session(**WHO, session_id=name, state={"app:n": n})
                for n, name in enumerate(("s", " s "))
            ),
            return_exceptions=True,
        )

        (session,) = [each for each in made if isinstance(each, Session)]
        (error,) = [each for each in made if not isinstance(each, Session)]
        assert isinstance(error, AlreadyExistsError)
        assert session.id == "s"
        assert await read(service, " s ") == session
        assert (await service.create_session(**WHO, session_id=" ")).id.strip()

    run(url, test)


def test_a_session_is_read_in_part(url: str) -> None:
    async def test(_: AsyncSessionManager, service: StoredSessionService) -> None:
        session = await service.create_session(**WHO, session_id="s")
        for n in range(1, 8):
            await service.append_event(session, says("user" if n in (1, 5) else "guide", str(n), timestamp=float(n)))

        async def texts(**config: Any) -> str:
            contents = [event.content for event in (await read(service, **config)).events]
            return "".join(part.text or "" for content in contents if content for part in content.parts or [])

        assert await texts() == "567"
        assert await texts(num_recent_events=2) == "67"
        assert await texts(num_recent_events=0) == ""
        assert await texts(num_recent_events=9) == "567"
        assert await texts(after_timestamp=6.0) == "67"
        assert await texts(num_recent_events=1, after_timestamp=6.0) == "7"
        partly = await read(service, num_recent_events=0)
        await service.append_event(partly, says("guide", "8"))
        assert await texts() == "5678"

    run(url, test, cap=4)


def test_sessions_are_listed_by_user_the_last_updated_last(url: str) -> None:
    async def test(manager: AsyncSessionManager, service: StoredSessionService) -> None:
        users = ("ann", "a:b", "a%3Ab", "a")
        for user in users:
            await service.create_session(app_name="travel", user_id=user, session_id="b:c", state={"user:u": user})
        first = await service.get_session(app_name="travel", user_id="ann", session_id="b:c")
        assert first is not None
        await service.append_event(first, says("user", "Hello", timestamp=first.last_update_time + 60))
        await service.create_session(app_name="other", user_id="ann", state={"app:p": 1})
        await service.create_session(app_name="travel", user_id="ann", session_id="gone", state={"app:p": 2})
        await service.delete_session(**WHO, session_id="gone")
        for name in ("telegram:4711", "session:4711", "session:a%:b", "user:a:b"):
            await manager.get_or_create("travel", name, metadata={PAYLOAD: {"state": {"u": [0]}}})

        found = (await service.list_sessions(app_name="travel")).sessions
        assert [(each.user_id, each.id, each.state, each.events) for each in found] == [
            (user, "b:c", {"user:u": user, "app:p": 2}, []) for user in ("a:b", "a%3Ab", "a", "ann")
        ]
        assert found[-1].last_update_time == first.last_update_time
        assert [each.user_id for each in (await service.list_sessions(app_name="travel", user_id="a")).sessions] == [
            "a"
        ]
        assert (await service.list_sessions(app_name="none")).sessions == []

    run(url, test)


def test_what_others_sent_is_heard(url: str) -> None:
    async def test(manager: AsyncSessionManager, service: StoredSessionService) -> None:
        session = await service.create_session(**WHO, session_id="s")
        await service.append_event(session, says("user", "Hello"))
        await manager.send_message(KEY, "Hurry")
        await manager.add_message(KEY, "assistant", "Yes")
        await manager.add_message(KEY, "tool", "no call", tool_name="other")
        await manager.redact_message(KEY, 1, reason="secret")

        found = await read(service)
        assert [(each.author, each.content and each.content.role) for each in found.events] == [
            ("user", "user"),
            ("user", "user"),
            ("assistant", "model"),
        ]
        assert [part.text for each in found.events if each.content for part in each.content.parts or []] == [
            "[redacted]",
            "Hurry",
            "Yes",
        ]
        with pytest.raises(StaleSessionError):
            await service.append_event(session, says("guide", "Hi"))
        await service.append_event(found, says("guide", "Hi"))

    run(url, test)


def test_what_others_stored_in_their_own_form_leaves_the_rest_readable(url: str) -> None:
    async def test(manager: AsyncSessionManager, service: StoredSessionService) -> None:
        session = await service.create_session(**WHO, session_id="s", state={"own": 1})
        await service.append_event(session, says("user", "Hello"))
        no_state: tuple[JsonValue, ...] = ("text", {"a": 5, "b": [], "c": "{", "d": {"e": 1}})
        for state in no_state:
            await manager.get_or_create("travel", "app")
            await manager.update_session(
                "agent:travel:conversation:app", metadata={PAYLOAD: {"state": state}}, replace_metadata=True
            )
            assert await read(service) == session
        for event in ({"author": 5}, {"timestamp": "now"}, {"timestamp": 10**400}, {"actions": {"new": 1}}, "[1]", "{"):
            await manager.add_message(KEY, "assistant", "said", metadata={PAYLOAD: event})
            hello, said = (await read(service)).events
            assert hello == session.events[0]
            assert said.content == Content(role="model", parts=[Part(text="said")])
            (listed,) = (await service.list_sessions(app_name="travel")).sessions
            assert listed.last_update_time == said.timestamp
            await manager.pop_messages(KEY)
        await manager.update_session(KEY, metadata={PAYLOAD: "text"})
        assert (await read(service)).state == {}

    run(url, test)


def test_wrong_input_is_refused_and_nothing_is_stored(url: str) -> None:
    no_keys = changes()
    no_keys.actions.state_delta[1] = 2  # type: ignore[index]
    no_actions, no_id, no_author = changes(), changes(), changes()
    no_actions.actions = None  # type: ignore[assignment]
    no_id.id = ""
    no_author.author = 5  # type: ignore[assignment]

    async def test(manager: AsyncSessionManager, service: StoredSessionService) -> None:
        for wrong in (
            {"app_name": "a:b"},
            {"app_name": ""},
            {"user_id": "\0"},
            {"user_id": 1},
            {"session_id": "x" * 250},
            {"session_id": "a\tb"},
        ):
            for call in (service.create_session, service.get_session, service.delete_session):
                with pytest.raises(InvalidInput) as refused:
                    await call(**({"app_name": "travel", "user_id": "ann", "session_id": "s"} | wrong))
                assert refused.value.argument in wrong or refused.value.argument == "user_id"
        for state in ({"a\0": 1}, {"user:a\0": 1}, {1: 2}, {"a\ud800": 1}, CYCLIC, "text"):
            with pytest.raises(InvalidInput):
                await service.create_session(**WHO, state=state)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput):
            await service.list_sessions(app_name="a:b")
        with pytest.raises(InvalidInput):
            StoredSessionService("sqlite://")  # type: ignore[arg-type]
        assert await manager.list() == []

        session = await service.create_session(**WHO, session_id="s")
        for event in (
            Event(author="guide", output=object()),
            Event(author="guide", custom_metadata=CYCLIC),
            changes(**{"app:p": 1, "a\0": 1}),
            changes(**{"user:u": 1, "app:a\0": 1}),
            changes(**{"a\ud800": 1}),
            Event(author="guide", timestamp=float("nan")),
            no_keys,
            no_actions,
            no_id,
            no_author,
            "text",
            None,
        ):
            with pytest.raises(InvalidInput):
                await service.append_event(session, event)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput):
            await service.append_event("s", says("user", "Hello"))  # type: ignore[arg-type]
        partial = says("guide", "He", partial=True)
        assert await service.append_event(session, partial) is partial

        assert session.events == []
        assert await read(service) == session
        assert [each.key for each in await manager.list()] == [KEY]

    run(url, test)
