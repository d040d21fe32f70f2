"""What a database must hold of a writer, judging by what was acknowledged, and what it does hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from sessions_db import NewMessage, SessionManager
from tests.support.client import PlainClient
from tests.support.plan import Append, Complete, Delete, Operation, Spawn, Step, operations
from tests.support.writer import Receipt, Task, perform


@dataclass(frozen=True)
class Retained:
    """A session and the messages that it retains, by their numbers."""

    label: str | None
    status: str
    message_cap: int
    archive_trimmed: bool
    last_seq: int = 0
    messages: Mapping[int, NewMessage] = field(default_factory=dict)
    archived: Mapping[int, NewMessage] = field(default_factory=dict)

    def all(self) -> dict[int, NewMessage]:
        """The messages that are retained or archived."""
        return {**self.archived, **self.messages}

    def appended(self, messages: tuple[NewMessage, ...]) -> Retained:
        """The session with these messages appended, and without those that they trim."""
        numbered = {**self.messages, **dict(enumerate(messages, self.last_seq + 1))}
        last_seq = self.last_seq + len(messages)
        newest = {seq: message for seq, message in numbered.items() if seq > last_seq - self.message_cap}
        archived = self.archived
        if self.archive_trimmed:
            archived = {**archived, **{seq: message for seq, message in numbered.items() if seq not in newest}}
        return replace(self, last_seq=last_seq, messages=newest, archived=archived)


@dataclass(frozen=True)
class State:
    """A writer's sessions by name, which of them its labels find, and how many events of each kind are logged."""

    sessions: Mapping[str, Retained]
    labels: Mapping[str, str]
    events: Mapping[str, int]

    def after(self, operation: Operation) -> State:
        """The state after the whole operation."""
        state = self
        for step in operation:
            state = state._after(step)
        return state

    def numbers(self, operation: Operation) -> list[tuple[str, int]]:
        """The session and the number of each message that the operation appends, in order."""
        found = []
        state = self
        for step in operation:
            if isinstance(step, Append):
                last_seq = state.sessions[step.session].last_seq
                found += [(step.session, last_seq + number) for number in range(1, len(step.messages) + 1)]
            state = state._after(step)
        return found

    def lacking(self, other: State) -> int:
        """How many messages are missing from the other state, or differ there."""
        return sum(
            session not in other.sessions or other.sessions[session].all().get(seq) != message
            for session, retained in self.sessions.items()
            for seq, message in retained.all().items()
        )

    def _after(self, step: Step) -> State:
        sessions, labels, events = dict(self.sessions), dict(self.labels), Counter(self.events)
        match step:
            case Spawn(session, label, message_cap, archive_trimmed):
                sessions[session] = Retained(label, "active", message_cap, archive_trimmed)
                events["created"] += 1
                if label is not None:
                    events["label_moved" if label in labels else "label_assigned"] += 1
                    labels[label] = session
            case Append(session, messages):
                sessions[session] = sessions[session].appended(messages)
            case Complete(session):
                events["status_changed"] += sessions[session].status == "active"
                sessions[session] = replace(sessions[session], status="completed")
            case Delete(session):
                del sessions[session]
                events["label_removed"] += session in labels.values()
                events["deleted"] += 1
                labels = {label: owner for label, owner in labels.items() if owner != session}
        return State(sessions, labels, +events)


@dataclass(frozen=True)
class Stored:
    """What a database holds of a writer."""

    state: State
    keys: dict[str, str]
    times: dict[tuple[str, int], int]
    """The time of each message that is retained."""
    created_ms: dict[str, int]
    last_activity_ms: dict[str, int]


def read(url: str, agent_id: str) -> Stored:
    """What the database holds of the writer, read without the library."""
    client = PlainClient(url)
    sessions = client(
        "SELECT key, task, label, status, message_cap, archive_trimmed, last_seq, created_ms, last_activity_ms"
        " FROM sessions WHERE agent_id = ?",
        agent_id,
    )
    labels = client(
        "SELECT l.label, s.task FROM labels AS l JOIN sessions AS s ON s.key = l.session_key WHERE s.agent_id = ?",
        agent_id,
    )
    events = client("SELECT event, count(*) FROM session_events WHERE actor = ? GROUP BY event", agent_id)
    retained, times = _messages(client, "messages", agent_id)
    archived, _ = _messages(client, "archived_messages", agent_id)
    client.close()
    prefix = f"{agent_id} "
    state = State(
        {
            task: Retained(
                label and label.removeprefix(prefix),
                status,
                cap,
                bool(archives),
                last_seq,
                retained.get(task, {}),
                archived.get(task, {}),
            )
            for _, task, label, status, cap, archives, last_seq, _, _ in sessions
        },
        {label.removeprefix(prefix): task for label, task in labels},
        dict(events),
    )
    return Stored(
        state,
        {task: key for key, task, *_ in sessions},
        times,
        {task: created_ms for _, task, *_, created_ms, _ in sessions},
        {task: last_activity_ms for _, task, *_, last_activity_ms in sessions},
    )


def _messages(
    client: PlainClient, table: str, agent_id: str
) -> tuple[dict[str, dict[int, NewMessage]], dict[tuple[str, int], int]]:
    """The messages of each session by number, and the time of each."""
    rows = client(
        "SELECT s.task, m.seq, m.role, m.content, m.tool_name, CAST(m.metadata AS text), m.idempotency_key,"
        f" m.timestamp_ms FROM {table} AS m JOIN sessions AS s ON s.key = m.session_key WHERE s.agent_id = ?",
        agent_id,
    )
    found: dict[str, dict[int, NewMessage]] = {}
    times = {}
    for task, seq, role, content, tool_name, metadata, idempotency_key, timestamp_ms in rows:
        decoded = None if metadata is None else json.loads(metadata)
        found.setdefault(task, {})[seq] = NewMessage(role, content, tool_name, decoded, idempotency_key)
        times[task, seq] = timestamp_ms
    return found, times


class Account:
    """What was acknowledged to a writer over all of its tasks, and so what the database must hold of it."""

    def __init__(self, url: str, agent_id: str, figures: Counter[str]) -> None:
        self._url = url
        self._agent_id = agent_id
        self._figures = figures
        self._newest_ms: dict[str, int] = {}
        self._pending: Operation = ()
        self._stored = read(url, agent_id)

    def task(self, seed: str) -> Task:
        """Operations on what the database holds now."""
        return Task(seed, self._stored.keys)

    def settle(self, task: Task, acknowledged: list[list[Receipt]], *, open_outcome: bool) -> None:
        """Compare what the database holds with what was acknowledged to the writer.

        With `open_outcome`, the operation after the acknowledged ones may be stored too, but only as a whole.
        """
        planned = operations(task.seed, task.keys)
        expected = self._stored.state
        told: dict[tuple[str, int], int] = {}
        for operation, receipts in zip(islice(planned, len(acknowledged)), acknowledged, strict=True):
            _same(expected.numbers(operation), [(receipt.session, receipt.seq) for receipt in receipts])
            told |= {(receipt.session, receipt.seq): receipt.timestamp_ms for receipt in receipts}
            expected = expected.after(operation)
        self._pending = next(planned)
        self._stored = read(self._url, self._agent_id)
        stored = self._stored.state
        whole = open_outcome and stored == expected.after(self._pending)
        if whole:
            expected = expected.after(self._pending)

        self._figures["operations acknowledged"] += len(acknowledged)
        self._figures["appends acknowledged"] += sum(map(len, acknowledged))
        self._figures["acknowledged appends lost"] += expected.lacking(stored)
        if open_outcome:
            self._figures["unacknowledged and stored whole"] += whole
            self._figures["unacknowledged and absent"] += not whole
        _same(expected.sessions, stored.sessions)
        _same(expected.labels, stored.labels)
        _same(expected.events, stored.events)
        self._settle_times(told)

    def read_back(self, manager: SessionManager) -> None:
        """Compare what the manager returns with what is stored."""
        for name, retained in self._stored.state.sessions.items():
            session = manager.get(self._stored.keys[name])
            assert session is not None
            _same(retained.last_seq, session.message_count)
            _same(retained.status, session.status)
            contents = {message.seq: message.content for message in session.messages}
            _same({seq: message.content for seq, message in retained.messages.items()}, contents)

    def repeat(self, manager: SessionManager) -> None:
        """Repeat the operation of unknown outcome if its idempotency key makes that safe: then it is stored, once."""
        match self._pending:
            case (Append(_, (message,)),) if message.idempotency_key is not None:
                before = self._stored.state
                (receipt,) = perform(self._pending, manager, self._agent_id, self._stored.keys)
                self._stored = read(self._url, self._agent_id)
                kept = before.sessions[receipt.session].messages.get(receipt.seq)
                _same(message, self._stored.state.sessions[receipt.session].messages[receipt.seq])
                _same(before if kept == message else before.after(self._pending), self._stored.state)
                self._settle_times({(receipt.session, receipt.seq): receipt.timestamp_ms})
                self._figures["appends repeated by their key"] += 1

    def _settle_times(self, told: dict[tuple[str, int], int]) -> None:
        times = self._stored.times
        _same(
            {place: at_ms for place, at_ms in told.items() if place in times}, {p: times[p] for p in told if p in times}
        )
        for (session, _), at_ms in [*told.items(), *times.items()]:
            self._newest_ms[session] = max(at_ms, self._newest_ms.get(session, 0))
        active_ms = {s: max(at_ms, self._newest_ms.get(s, 0)) for s, at_ms in self._stored.created_ms.items()}
        _same(active_ms, self._stored.last_activity_ms)


def _same(expected: object, found: object) -> None:
    """Fail if they differ, and show only where."""
    if expected == found:
        return
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        places = [place for place in {**expected, **found} if expected.get(place) != found.get(place)]
        expected = {place: expected.get(place) for place in places}
        found = {place: found.get(place) for place in places}
    raise AssertionError(f"expected {expected}\nfound {found}")
