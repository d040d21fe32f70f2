"""Callers that append and end sessions at the same time get answers that some order of their calls explains."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions_db import NewMessage, SessionManager, SessionStatus
from tests.behaviour.test_model import CAP, new_messages, outcome, texts
from tests.support.client import PlainClient
from tests.support.clock import Clock
from tests.support.examples import examples
from tests.support.model import Model
from tests.support.threads import run_together


class Call(NamedTuple):
    """A call on one of the sessions, by its position."""

    session: int
    what: str
    messages: Sequence[NewMessage] = ()

    def on_manager(self, manager: SessionManager, key: str) -> object:
        match self.what:
            case "send":
                return manager.send_message(key, self.messages[0].content)
            case "add":
                (new,) = self.messages
                return manager.add_message(
                    key,
                    new.role,
                    new.content,
                    tool_name=new.tool_name,
                    metadata=new.metadata,
                    idempotency_key=new.idempotency_key,
                )
            case "add all":
                return manager.add_messages(key, self.messages)
            case "complete":
                return manager.complete_session(key)
        return manager.reopen_session(key)

    def on_model(self, model: Model, key: str) -> object:
        match self.what:
            case "send":
                return model.send_message(key, self.messages[0].content)
            case "add":
                return model.add_messages(key, self.messages)[0]
            case "add all":
                return model.add_messages(key, self.messages)
            case "complete":
                return model.end(key, SessionStatus.COMPLETED, None)
        return model.reopen_session(key)


sessions = st.integers(0, 1)
calls = st.one_of(
    st.builds(Call, sessions, st.just("send"), st.builds(NewMessage, st.just("user"), texts).map(lambda new: [new])),
    st.builds(Call, sessions, st.just("add"), new_messages.map(lambda new: [new])),
    st.builds(Call, sessions, st.just("add all"), st.lists(new_messages, min_size=1, max_size=3)),
    st.builds(Call, sessions, st.sampled_from(["complete", "reopen"]), st.just(())),
)


# Coverage would double its time, and the other tests reach the same lines.
@pytest.mark.no_cover
@pytest.mark.usefixtures("clock")
def test_answers_of_concurrent_callers_are_those_of_some_order_of_their_calls(
    open_manager: Callable[..., SessionManager], url: str, plain: PlainClient, clock: Clock
) -> None:
    with open_manager(url, message_cap=CAP) as manager:

        @examples(30)
        @given(st.lists(st.lists(calls, min_size=1, max_size=4), min_size=2, max_size=6))
        def explain(plans: list[list[Call]]) -> None:
            plain("DELETE FROM sessions")
            model = Model(CAP)
            model.now_ms = clock.now_ms
            keys = [manager.get_or_create_main(agent_id).key for agent_id in "ab"]
            for agent_id in "ab":
                model.get_or_create_main(agent_id)
            answers: list[list[object]] = [[] for _ in plans]
            start = threading.Barrier(len(plans))

            def call(caller: int) -> None:
                start.wait()
                for planned in plans[caller]:
                    answers[caller].append(outcome(partial(planned.on_manager, manager, keys[planned.session])))

            run_together(threading.Thread(target=call, args=(caller,)) for caller in range(len(plans)))

            stored = {key: manager.get(key) for key in keys}
            ends = _orders(plans, answers, keys, model)
            assert any({key: found.get(key) for key in keys} == stored for found in ends), (plans, answers, stored)

        explain()


def _orders(plans: list[list[Call]], answers: list[list[object]], keys: list[str], model: Model) -> list[Model]:
    """The models after each order of the calls, with each caller's own kept, that gives all these answers."""
    found = [((0,) * len(plans), model)]
    for _ in range(sum(map(len, plans))):
        following: dict[tuple[object, ...], tuple[tuple[int, ...], Model]] = {}
        for done, before in found:
            for caller, plan in enumerate(plans):
                if done[caller] == len(plan):
                    continue
                planned, after = plan[done[caller]], deepcopy(before)
                answer = outcome(partial(planned.on_model, after, keys[planned.session]))
                if answer == answers[caller][done[caller]]:
                    further = (*done[:caller], done[caller] + 1, *done[caller + 1 :])
                    statuses = tuple(record.status for record in after.sessions.values())
                    following[further, statuses] = further, after
        found = list(following.values())
    return [after for _, after in found]
