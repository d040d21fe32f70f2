"""Callers that change sessions at the same time get answers that some order of their calls explains."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sessions_db import Session, SessionKind, SessionManager, SessionStatus
from sessions_db.keys import agent_of
from tests.behaviour.test_model import CAP, new_messages, outcome, texts
from tests.support.client import PlainClient
from tests.support.clock import Clock
from tests.support.examples import examples
from tests.support.model import Model, Record
from tests.support.threads import run_together

KEYS = ["agent:a:main", "agent:b:main", "agent:a:conversation:talk"]


class Call(NamedTuple):
    """A call on one of the sessions, by its position."""

    session: int
    what: str
    arguments: Sequence[Any] = ()
    options: Mapping[str, Any] = {}

    def on_manager(self, manager: SessionManager) -> object:
        key = KEYS[self.session]
        match self.what:
            case "add_message":
                (new,) = self.arguments
                return manager.add_message(
                    key,
                    new.role,
                    new.content,
                    tool_name=new.tool_name,
                    metadata=new.metadata,
                    idempotency_key=new.idempotency_key,
                    **self.options,
                )
            case "get_or_create":
                return manager.get_or_create("a", "talk")
            case "fork_session":
                return _forked(manager.get(manager.fork_session(key, *self.arguments)))
        return getattr(manager, self.what)(key, *self.arguments, **self.options)

    def on_model(self, model: Model) -> object:
        key = KEYS[self.session]
        match self.what:
            case "add_message":
                return model.add_messages(key, self.arguments, **self.options)[0]
            case "get_or_create":
                return model.get_or_create("a", "talk")
            case "complete_session":
                return model.end(key, SessionStatus.COMPLETED, None)
            case "redact_message":
                return model.redact_message(key, *self.arguments, *self.options.values())
            case "fork_session":
                (at_seq,) = self.arguments
                model.check_fork(key, at_seq, None, "replace")
                made = Record("a fork", agent_of(key), SessionKind.SUBAGENT, model.now_ms, model.now_ms, CAP)
                model.fork(made.snapshot(), key, at_seq, None)
                return _forked(model.sessions.pop(made.key).snapshot())
        return getattr(model, self.what)(key, *self.arguments, **self.options)


def _forked(made: Session | None) -> object:
    return made and (made.messages, made.message_count, made.metadata, made.forked_at_seq)


def calls_of(what: str, arguments: SearchStrategy[Any], **options: SearchStrategy[Any]) -> SearchStrategy[Call]:
    return st.builds(Call, st.integers(0, 2), st.just(what), arguments, st.fixed_dictionaries(options))


expected_counts = st.none() | st.integers(0, 4)
calls = st.one_of(
    calls_of("send_message", st.tuples(texts)),
    calls_of("add_message", st.tuples(new_messages), expected_count=expected_counts),
    calls_of(
        "add_messages",
        st.tuples(st.lists(new_messages, min_size=1, max_size=3)),
        expected_count=expected_counts,
    ),
    st.sampled_from(["complete_session", "reopen_session", "touch", "get_or_create", "delete_session"]).flatmap(
        lambda what: calls_of(what, st.just(()))
    ),
    calls_of("pop_messages", st.tuples(st.none() | st.integers(0, 2))),
    calls_of("redact_message", st.tuples(st.integers(1, 4)), reason=st.sampled_from("xy")),
    calls_of("fork_session", st.tuples(st.integers(0, 5))),
    calls_of(
        "update_session",
        st.just(()),
        metadata=st.sampled_from([..., None, {"a": 1}, {"a": None, "b": 2}]),
        replace_metadata=st.booleans(),
        label=st.sampled_from([..., None, "x", "y"]),
        on_label_conflict=st.sampled_from(["replace", "error"]),
    ),
)


# Coverage would double its time, and the other tests reach the same lines.
@pytest.mark.no_cover
@pytest.mark.usefixtures("clock")
def test_answers_of_concurrent_callers_are_those_of_some_order_of_their_calls(
    open_manager: Callable[..., SessionManager], url: str, plain: PlainClient, clock: Clock
) -> None:
    with open_manager(url, message_cap=CAP) as manager:
        # The orders of five callers' calls can take a minute to try.
        @examples(30)
        @given(st.lists(st.lists(calls, min_size=1, max_size=4), min_size=2, max_size=4))
        def explain(plans: list[list[Call]]) -> None:
            plain("DELETE FROM sessions")
            model = Model(CAP)
            model.now_ms = clock.now_ms
            for agent_id in "ab":
                manager.get_or_create_main(agent_id)
                model.get_or_create_main(agent_id)
            answers: list[list[object]] = [[] for _ in plans]
            start = threading.Barrier(len(plans))

            def call(caller: int) -> None:
                start.wait()
                for planned in plans[caller]:
                    answers[caller].append(outcome(partial(planned.on_manager, manager)))

            run_together(threading.Thread(target=call, args=(caller,)) for caller in range(len(plans)))

            stored = [manager.get(key) for key in KEYS], dict(plain("SELECT label, session_key FROM labels"))
            ends = _orders(plans, answers, model)
            assert any(([end.get(key) for key in KEYS], end.labels) == stored for end in ends), (plans, answers, stored)

        explain()


def _orders(plans: list[list[Call]], answers: list[list[object]], model: Model) -> list[Model]:
    """The models after each order of the calls, with each caller's own kept, that gives all these answers."""
    found = [((0,) * len(plans), model)]
    for _ in range(sum(map(len, plans))):
        following: dict[str, tuple[tuple[int, ...], Model]] = {}
        for done, before in found:
            for caller, plan in enumerate(plans):
                if done[caller] == len(plan):
                    continue
                after = before.copy()
                answer = outcome(partial(plan[done[caller]].on_model, after))
                if answer == answers[caller][done[caller]]:
                    further = (*done[:caller], done[caller] + 1, *done[caller + 1 :])
                    following[repr((further, sorted(after.sessions.items()), after.labels))] = further, after
        found = list(following.values())
    return [after for _, after in found]
