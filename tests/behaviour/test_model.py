"""Random operations give the same results and the same errors as a plain in-memory model, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from sessions_db import NewMessage, Role, SessionKind, SessionManager, SessionsError, SessionStatus
from tests.support.client import PlainClient
from tests.support.clock import Clock, at, ms
from tests.support.model import Model

CAP = 4

agents = st.sampled_from(["main", "helper", "it's 100% _ü"])
labels = st.sampled_from(["research", " ", "näme"])
texts = st.text(st.characters(codec="utf-8", min_codepoint=1), max_size=8)
kinds = st.sampled_from(SessionKind)
statuses = st.sampled_from(SessionStatus)
idempotency_keys = st.none() | st.sampled_from(["a", "b", "c"])
new_messages = st.builds(
    NewMessage,
    st.sampled_from(Role),
    texts,
    st.none() | texts,
    st.none() | st.dictionaries(texts, st.integers() | texts, max_size=2),
    idempotency_keys,
) | st.sampled_from([NewMessage("user", "repeated", None, {"a": 1}, key) for key in "abc"])


class Comparison(RuleBasedStateMachine):
    """Every rule does one thing to the manager and to the model, and compares the outcomes."""

    manager: SessionManager
    plain: PlainClient
    clock: Clock

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(CAP)
        self.plain("DELETE FROM sessions")
        self.clock.now_ms = 1_700_000_000_000

    # Keys are drawn by position, so that Hypothesis can shrink a run: all but one are known.
    def key(self, position: int) -> str:
        return [*self.model.sessions, "agent:nobody:main"][position % (len(self.model.sessions) + 1)]

    def same(self, real: Callable[[], Any], modelled: Callable[[], Any]) -> Any:
        """What both return, or None if both raise the same error."""
        self.model.now_ms = self.clock.now_ms
        expected = outcome(modelled)
        actual = outcome(real)
        assert actual == expected
        return actual

    @initialize()
    def begin(self) -> None:
        assert self.manager.list() == []

    @rule(step_ms=st.sampled_from([1, 1000, 60_000, -500]))
    def pass_time(self, step_ms: int) -> None:
        self.clock.now_ms += step_ms

    @rule(agent=agents)
    def get_or_create_main(self, agent: str) -> None:
        self.same(lambda: self.manager.get_or_create_main(agent), lambda: self.model.get_or_create_main(agent))

    @rule(agent=agents, name=st.sampled_from(["talk", "a:b", "Ü > %"]))
    def get_or_create(self, agent: str, name: str) -> None:
        self.same(lambda: self.manager.get_or_create(agent, name), lambda: self.model.get_or_create(agent, name))

    @rule(
        position=st.integers(0, 9),
        at_seq=st.integers(0, 5),
        label=st.none() | labels,
        on_label_conflict=st.sampled_from(["replace", "error"]),
        archive=st.sampled_from([None, False, True]),
    )
    def fork_session(
        self, position: int, at_seq: int, label: str | None, on_label_conflict: str, archive: bool | None
    ) -> None:
        key = self.key(position)
        made: list[str] = []

        def real() -> None:
            options: Any = {"archive_trimmed": archive, "on_label_conflict": on_label_conflict}
            made.append(self.manager.fork_session(key, at_seq, label=label, **options))

        self.same(real, lambda: self.model.check_fork(key, at_seq, label, on_label_conflict))
        if made:
            (new,) = made
            session = self.manager.get(new)
            assert session is not None
            assert (session.agent_id, session.kind, session.label, session.parent_key) == (
                self.model.sessions[key].agent_id,
                SessionKind.SUBAGENT,
                label,
                key,
            )
            self.model.fork(session, key, at_seq, archive)
            self.same(lambda: self.manager.get(new), lambda: self.model.get(new))

    @rule(
        position=st.integers(0, 9),
        metadata=st.sampled_from([..., None]) | st.dictionaries(st.sampled_from("ab"), st.none() | st.integers(0, 2)),
        replace_metadata=st.booleans(),
        label=st.sampled_from([..., None]) | labels,
        on_label_conflict=st.sampled_from(["replace", "error"]),
    )
    def update_session(self, position: int, **changes: Any) -> None:
        key = self.key(position)
        self.same(
            lambda: self.manager.update_session(key, **changes), lambda: self.model.update_session(key, **changes)
        )

    @rule(position=st.integers(0, 9), count=st.none() | st.integers(0, 3))
    def pop_messages(self, position: int, count: int | None) -> None:
        key = self.key(position)
        self.same(lambda: self.manager.pop_messages(key, count), lambda: self.model.pop_messages(key, count))

    @rule(position=st.integers(0, 9), seq=st.integers(1, 9), reason=texts.filter(bool))
    def redact_message(self, position: int, seq: int, reason: str) -> None:
        key = self.key(position)
        self.same(
            lambda: self.manager.redact_message(key, seq, reason=reason),
            lambda: self.model.redact_message(key, seq, reason),
        )

    @rule(position=st.integers(0, 9))
    def touch(self, position: int) -> None:
        key = self.key(position)
        self.same(lambda: self.manager.touch(key), lambda: self.model.touch(key))

    @rule(
        kind=st.sampled_from(["spawn_subagent", "spawn_cron"]),
        agent=agents,
        task=texts,
        label=st.none() | labels,
        parent=st.none() | st.integers(0, 9),
        cap=st.sampled_from([None, 1, 3]),
        on_label_conflict=st.sampled_from(["replace", "error"]),
    )
    def spawn(
        self,
        kind: str,
        agent: str,
        task: str,
        label: str | None,
        parent: int | None,
        cap: int | None,
        on_label_conflict: str,
    ) -> None:
        parent_key = None if parent is None else self.key(parent)
        made: list[str] = []

        def real() -> None:
            spawn = getattr(self.manager, kind)
            made.append(spawn(agent, task, label, parent_key, message_cap=cap, on_label_conflict=on_label_conflict))

        self.same(real, lambda: self.model.check_spawn(label, parent_key, on_label_conflict))
        for key in made:
            session = self.manager.get(key)
            assert session is not None
            assert (session.agent_id, session.task, session.label, session.parent_key) == (
                agent,
                task,
                label,
                parent_key,
            )
            self.model.spawn(session, CAP if cap is None else cap)

    @rule(position=st.integers(0, 9), text=texts, once=idempotency_keys)
    def send_message(self, position: int, text: str, once: str | None) -> None:
        key = self.key(position)
        self.same(
            lambda: self.manager.send_message(key, text, idempotency_key=once),
            lambda: self.model.send_message(key, text, once),
        )

    @rule(position=st.integers(0, 9), new=new_messages, expected_count=st.none() | st.integers(0, 6))
    def add_message(self, position: int, new: NewMessage, expected_count: int | None) -> None:
        key = self.key(position)
        options = {
            "tool_name": new.tool_name,
            "metadata": new.metadata,
            "idempotency_key": new.idempotency_key,
            "expected_count": expected_count,
        }
        self.same(
            lambda: self.manager.add_message(key, new.role, new.content, **cast(Any, options)),
            lambda: self.model.add_messages(key, [new], expected_count)[0],
        )

    @rule(
        position=st.integers(0, 9),
        batch=st.lists(new_messages, max_size=7),
        expected_count=st.none() | st.integers(0, 6),
    )
    def add_messages(self, position: int, batch: list[NewMessage], expected_count: int | None) -> None:
        key = self.key(position)
        self.same(
            lambda: self.manager.add_messages(key, batch, expected_count=expected_count),
            lambda: self.model.add_messages(key, batch, expected_count),
        )

    @rule(
        position=st.integers(0, 9),
        ending=st.sampled_from(
            [
                ("complete_session", SessionStatus.COMPLETED),
                ("error_session", SessionStatus.ERROR),
                ("timeout_session", SessionStatus.TIMEOUT),
                ("stop_session", SessionStatus.STOPPED),
            ]
        ),
        reason=st.none() | texts,
    )
    def end(self, position: int, ending: tuple[str, SessionStatus], reason: str | None) -> None:
        key = self.key(position)
        name, status = ending
        self.same(lambda: getattr(self.manager, name)(key, reason), lambda: self.model.end(key, status, reason))

    @rule(position=st.integers(0, 9))
    def reopen_session(self, position: int) -> None:
        key = self.key(position)
        self.same(lambda: self.manager.reopen_session(key), lambda: self.model.reopen_session(key))

    @rule(idle_ms=st.sampled_from([1, 1000, 60_000]), only=st.lists(kinds, max_size=3), agent=st.none() | agents)
    def timeout_idle(self, idle_ms: int, only: list[SessionKind], agent: str | None) -> None:
        self.same(
            lambda: self.manager.timeout_idle(ms(idle_ms), only, agent_id=agent),
            lambda: self.model.timeout_idle(idle_ms, only, agent),
        )

    @rule(position=st.integers(0, 9))
    def delete_session(self, position: int) -> None:
        key = self.key(position)
        self.same(lambda: self.manager.delete_session(key), lambda: self.model.delete_session(key))

    @rule(
        age_ms=st.sampled_from([-1, 0, 1000]),
        only=st.none() | st.lists(kinds, max_size=3),
        agent=st.none() | agents,
        status=st.none() | statuses,
        dry_run=st.booleans(),
    )
    def prune(
        self,
        age_ms: int,
        only: list[SessionKind] | None,
        agent: str | None,
        status: SessionStatus | None,
        dry_run: bool,
    ) -> None:
        before_ms = self.clock.now_ms - age_ms
        options: Any = {"agent_id": agent, "status": status, "dry_run": dry_run}
        of_kinds: Any = {} if only is None else {"kinds": only}
        self.same(
            lambda: self.manager.prune(before=at(before_ms), **of_kinds, **options),
            lambda: self.model.prune(before_ms, only, **options),
        )

    @rule(
        only=st.none() | st.lists(kinds, max_size=3),
        active_only=st.booleans(),
        limit=st.integers(0, 6),
        agent=st.none() | agents,
        status=st.none() | statuses,
        active_within_ms=st.none() | st.sampled_from([0, 1000]),
        under=st.none() | st.integers(0, 9),
        prefix=st.none() | st.sampled_from(["", "agent:main:", "agent:helper:cron:", "agent:it's 100% _ü", "b"]),
        age_ms=st.none() | st.sampled_from([0, 1000, 60_000]),
        span_ms=st.none() | st.sampled_from([0, 1, 1000]),
        message_limit=st.integers(0, 5),
    )
    def list_sessions(
        self,
        only: list[SessionKind] | None,
        active_only: bool,
        limit: int,
        agent: str | None,
        status: SessionStatus | None,
        active_within_ms: int | None,
        under: int | None,
        prefix: str | None,
        age_ms: int | None,
        span_ms: int | None,
        message_limit: int,
    ) -> None:
        since_ms = None if age_ms is None else self.clock.now_ms - age_ms
        before_ms = None if since_ms is None or span_ms is None else since_ms + span_ms
        filters: Any = {
            "agent_id": agent,
            "status": status,
            "active_within_ms": active_within_ms,
            "under": None if under is None else self.key(under),
            "key_prefix": prefix,
        }
        times = {"created_after_ms": since_ms, "created_before_ms": before_ms}
        model: Any = filters | times | {"message_limit": message_limit}
        filters |= {name.removesuffix("_ms"): None if of is None else at(of) for name, of in times.items()}
        self.same(
            lambda: self.manager.list(only, active_only, limit, **filters, message_limit=message_limit),
            lambda: self.model.list(only, active_only, limit, **model),
        )
        self.same(
            lambda: [*self.manager.iterate(only, active_only, **filters, message_limit=message_limit)],
            lambda: self.model.list(only, active_only, 1_000_000, **model),
        )
        self.same(
            lambda: self.manager.count(only, active_only, **filters),
            lambda: len(self.model.list(only, active_only, 1_000_000, **model)),
        )

    @rule(
        position=st.integers(0, 9),
        limit=st.none() | st.integers(0, 5),
        include_tools=st.booleans(),
        after_seq=st.none() | st.integers(0, 9),
        before_seq=st.none() | st.integers(0, 9),
    )
    def history(
        self, position: int, limit: int | None, include_tools: bool, after_seq: int | None, before_seq: int | None
    ) -> None:
        key = self.key(position)
        self.same(
            lambda: self.manager.history(key, limit, include_tools, after_seq=after_seq, before_seq=before_seq),
            lambda: self.model.history(key, limit, include_tools, after_seq, before_seq),
        )

    @rule(position=st.integers(0, 9), after_seq=st.integers(0, 9))
    def wait_for_messages(self, position: int, after_seq: int) -> None:
        key = self.key(position)
        self.same(
            lambda: self.manager.wait_for_messages(key, after_seq, timeout=0),
            lambda: self.model.wait_for_messages(key, after_seq),
        )

    @rule(positions=st.lists(st.integers(0, 9), max_size=3))
    def wait_for_end(self, positions: list[int]) -> None:
        keys = [self.key(position) for position in positions]
        self.same(lambda: self.manager.wait_for_end(keys, timeout=0), lambda: self.model.wait_for_end(keys))

    @rule(label=labels)
    def get_by_label(self, label: str) -> None:
        self.same(lambda: self.manager.get_by_label(label), lambda: self.model.get_by_label(label))

    @rule(position=st.integers(0, 9))
    def family(self, position: int) -> None:
        key = self.key(position)
        self.same(lambda: self.manager.get(key), lambda: self.model.get(key))
        self.same(lambda: self.manager.children(key), lambda: self.model.children(key))
        self.same(lambda: self.manager.descendants(key), lambda: self.model.descendants(key))

    @invariant()
    def database_holds_what_the_model_holds(self) -> None:
        records = self.model.sessions.values()
        retained = [(record.key, message.seq) for record in records for message in record.messages]
        columns = "key, status, finished_ms, last_activity_ms, last_seq"
        assert set(self.plain(f"SELECT {columns} FROM sessions")) == {
            (record.key, record.status, record.finished_ms, record.last_activity_ms, record.count) for record in records
        }
        assert sorted(self.plain("SELECT session_key, seq FROM messages")) == sorted(retained)
        assert dict(self.plain("SELECT label, session_key FROM labels")) == self.model.labels


def outcome(call: Callable[[], object]) -> object:
    """What the call returns, or the type and data of the error that it raises."""
    try:
        return call()
    except SessionsError as error:
        return type(error), vars(error)


# Coverage would double its time, and the other tests reach the same lines.
@pytest.mark.no_cover
def test_manager_behaves_like_the_model(
    open_manager: Callable[..., SessionManager], url: str, plain: PlainClient, clock: Clock
) -> None:
    with open_manager(url, message_cap=CAP) as manager:

        class OnDatabase(Comparison):
            pass

        OnDatabase.manager, OnDatabase.plain, OnDatabase.clock = manager, plain, clock
        run_state_machine_as_test(
            OnDatabase,
            settings=settings(
                max_examples=40,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
