"""A process that writes to a database and reports on a pipe what was acknowledged to it."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection

from sessions_db import DatabaseUnavailable, SessionManager
from sessions_db.store import SessionStore
from tests.support.blocking import Blocking
from tests.support.plan import Append, Complete, Delete, Operation, Spawn, Step, operations
from tests.support.threads import run_together


@dataclass(frozen=True)
class Task:
    """What to write until told to stop: the operations of a seed, on the sessions with these keys, by name."""

    seed: str
    keys: dict[str, str]


@dataclass(frozen=True)
class Receipt:
    """What the manager returned for a message that it stored."""

    session: str
    seq: int
    timestamp_ms: int


@dataclass(frozen=True)
class Over:
    """The task has ended: the writer was told to stop, or an operation failed."""

    failed: bool = False
    outcome_unknown: bool = False
    reason: str = ""


def write(pipe: Connection, url: str, agent_id: str) -> None:
    """Do the tasks that arrive on the pipe; send the receipts of each operation as soon as it returns."""
    with SessionManager(url, retry_budget_s=30, actor=agent_id) as manager:
        while (task := pipe.recv()) is not None:
            # Only tasks arrive, or the end of one that has already failed.
            if isinstance(task, Task):
                pipe.send(_do(task, manager, agent_id, pipe))


def _do(task: Task, manager: SessionManager, agent_id: str, pipe: Connection) -> Over:
    keys = dict(task.keys)
    for operation in operations(task.seed, keys):
        if pipe.poll():
            pipe.recv()
            break
        try:
            receipts = perform(operation, manager, agent_id, keys)
        except DatabaseUnavailable as error:
            return Over(failed=True, outcome_unknown=error.outcome_unknown, reason=str(error))
        pipe.send(receipts)
    return Over()


def perform(operation: Operation, manager: SessionManager, agent_id: str, keys: dict[str, str]) -> list[Receipt]:
    """The receipts of all that the operation stored. Keys of new sessions are added to `keys`."""
    if len(operation) == 1:
        return _step(operation[0], manager, agent_id, keys)
    with manager.transaction() as tx:
        return [receipt for step in operation for receipt in _step(step, tx, agent_id, keys)]


def _step(step: Step, store: SessionStore, agent_id: str, keys: dict[str, str]) -> list[Receipt]:
    match step:
        case Spawn(session, label, message_cap, archive_trimmed):
            owned = None if label is None else f"{agent_id} {label}"
            keys[session] = store.spawn_subagent(
                agent_id, session, owned, message_cap=message_cap, archive_trimmed=archive_trimmed
            )
        case Append(session, (new,)):
            stored = store.add_message(
                keys[session],
                new.role,
                new.content,
                tool_name=new.tool_name,
                metadata=new.metadata,
                idempotency_key=new.idempotency_key,
            )
            return [Receipt(session, stored.seq, stored.timestamp_ms)]
        case Append(session, messages):
            batch = store.add_messages(keys[session], messages)
            return [Receipt(session, message.seq, message.timestamp_ms) for message in batch]
        case Complete(session):
            store.complete_session(keys[session])
        case Delete(session):
            store.delete_session(keys.pop(session))
    return []


def write_together(pipe: Connection, url: str, face: str) -> None:
    """Do the one task on the pipe with 64 writers at once, threads or tasks; send each receipt as soon as it is there.

    Each writer numbers its messages. `Receipt.session` is the name of a session, and `/` and the text.
    """
    task = pipe.recv()
    told = threading.Lock()
    open_manager = SessionManager if face == "sync" else Blocking

    with open_manager(url) as manager:

        def append(name: str, writer: int) -> None:
            for number in itertools.count():
                text = f"{task.seed} {writer} {number}"
                stored = manager.send_message(task.keys[name], text)
                with told:
                    pipe.send([Receipt(f"{name}/{text}", stored.seq, stored.timestamp_ms)])

        names = itertools.islice(itertools.cycle(task.keys), 64)
        run_together(threading.Thread(target=append, args=(name, number)) for number, name in enumerate(names))
