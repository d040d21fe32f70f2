"""Importing JSON Lines: conversations, which become completed sub-agent sessions, and sessions that were exported.

Lines share a transaction, and are stored or refused each by itself. A conversation's idempotency key is derived from
its content, and a session has its key, so an import that was interrupted, is repeated or runs twice at the same time
stores everything once.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import chain, groupby, takewhile
from typing import Final, NoReturn, TypeAlias

from sessions_db import validation
from sessions_db.enums import Role, SessionStatus
from sessions_db.errors import DatabaseUnavailable, InvalidInput, SchemaMismatch, SessionsError
from sessions_db.integrations.chat_completions import to_new_message
from sessions_db.manager import SessionManager
from sessions_db.models import ExportedSession, NewMessage
from sessions_db.transaction import Transaction
from sessions_db.transfer.batches import batches
from sessions_db.transfer.lines import from_line, is_session
from sessions_db.transfer.proving import is_proof
from sessions_db.validation import JsonValue


class Outcome(Enum):
    """What became of a line."""

    IMPORTED = auto()
    ALREADY_THERE = auto()
    REFUSED = auto()
    BLANK = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line that has been processed.

    `number` counts from 1, `size` is in bytes, `messages` is how many were imported, `reason` says why the line was
    refused.
    """

    number: int
    size: int
    outcome: Outcome
    messages: int = 0
    reason: str | None = None


class _NoAgentError(Exception):
    """A conversation came, and no agent was named for it."""


def import_lines(manager: SessionManager, agent_id: str | None, lines: Iterable[bytes]) -> Iterator[Line]:
    """What became of each line, in order; a line is committed before it is yielded.

    Lines are committed together, up to 64 or 1 MB of them. Those of a binary file or a pipe never wait for others to
    come; of another iterable, lines are read ahead unless they take more than a tenth of a second each.

    A line is one of two kinds of JSON object. What `export_lines` wrote becomes the same session again, with its times,
    numbers and status; if a session with its key exists, the line is refused unless the two are the same. A label that
    another session owns goes to the one that got it later.

    Lines that prove messages are skipped: they are about the database that the session was exported from.

    Anything else is a conversation: `messages`, a list of chat-completions messages, and optionally `label` and `task`
    (default: the first text from the user); other keys become the session's metadata. It becomes a completed
    sub-agent session under the main session of `agent_id`, to which the user's and the assistant's texts are added too.
    A line with the same content as one that was imported for this agent before is not imported again.

    Raises:
        InvalidInput: `agent_id` is not valid, or is None and a line is a conversation; the lines before it are
            imported. (A line that can't be imported is yielded as refused.)
        DatabaseUnavailable, SchemaMismatch: the lines so far are imported.
    """
    if agent_id is not None:
        validation.agent_id(agent_id)
    number = 0
    for batch in batches(lines):
        try:
            for line, (outcome, messages, reason) in zip(batch, _import(manager, agent_id, batch), strict=True):
                number += 1
                yield Line(number=number, size=len(line), outcome=outcome, messages=messages, reason=reason)
        except _NoAgentError:
            raise InvalidInput("agent_id", f"must be given: line {number + 1} is a conversation", None) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conversation:
    label: str | None
    task: str
    messages: list[NewMessage]
    metadata: dict[str, JsonValue] | None
    idempotency_key: str


def _conversation(rest: dict[str, JsonValue]) -> _Conversation:
    chat = rest.pop("messages", None)
    if not isinstance(chat, list):
        raise InvalidInput("messages", "must be a list", chat)
    messages = [_message(position, message) for position, message in enumerate(chat)]
    label = validation.optional_nonempty_name("label", rest.pop("label", None))
    task = validation.optional_text("task", rest.pop("task", None))
    if task is None:
        task = next((new.content for new in messages if new.role is Role.USER and new.content), "")
    metadata = validation.metadata("metadata", rest or None)
    content = json.dumps([label, task, chat, metadata])
    return _Conversation(
        label=label,
        task=task,
        messages=messages,
        metadata=metadata,
        idempotency_key=f"import:{hashlib.sha256(content.encode()).hexdigest()}",
    )


def _message(position: int, message: dict[str, JsonValue]) -> NewMessage:
    try:
        return to_new_message(message)
    except InvalidInput as error:
        raise InvalidInput(f"messages[{position}]: {error.argument}", error.reason, error.value) from error


def _parse(line: bytes) -> dict[str, JsonValue]:
    """The JSON object on the line."""
    try:
        # Some programs begin a file with a byte order mark.
        value = _DECODER.decode(line.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InvalidInput("conversation", f"must be JSON ({error.msg}, column {error.colno})", line) from error
    # From the decoder, the function below, or Python, which limits nesting and the digits of integers.
    except (ValueError, RecursionError) as error:
        raise InvalidInput("conversation", f"must be JSON in UTF-8 ({error})", line) from error
    if not isinstance(value, dict):
        raise InvalidInput("conversation", "must be a JSON object", value)
    return value


def _to_dict(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"an object has the key {twice!r} twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_to_dict, parse_constant=_refuse_constant)


_Item: TypeAlias = "ExportedSession | _Conversation"

# How often a line is tried that another transaction and this one both hold up.
_TRIES: Final = 5

_Result: TypeAlias = tuple[Outcome, int, str | None]


def _import(manager: SessionManager, agent_id: str | None, batch: Iterable[bytes]) -> Iterator[_Result]:
    """What became of each line, as soon as it is committed."""
    read = [_read(line) for line in batch]
    to_store = [item for item in read if not isinstance(item, tuple)]
    if agent_id is None:
        to_store = [*takewhile(lambda item: isinstance(item, ExportedSession), to_store)]
    kinds = groupby(to_store, type)
    stored = chain.from_iterable(_store(manager, agent_id, [*items]) for _, items in kinds)
    for item in read:
        if isinstance(item, tuple):
            yield item
        elif agent_id is None and isinstance(item, _Conversation):
            raise _NoAgentError
        else:
            yield next(stored)


def _read(line: bytes) -> _Item | _Result:
    """What the line holds, or what became of it if there is nothing to store."""
    if not line.strip():
        return Outcome.BLANK, 0, None
    try:
        value = _parse(line)
        if is_proof(value):
            return Outcome.BLANK, 0, None
        return from_line(value) if is_session(value) else _conversation(value)
    except InvalidInput as error:
        return Outcome.REFUSED, 0, str(error)


def _store(
    manager: SessionManager, agent_id: str | None, items: Sequence[_Item], tries: int = _TRIES
) -> Iterator[_Result]:
    """What became of these items, all of one kind."""
    part = len(items) // 2
    try:
        stored = _store_together(manager, agent_id, items)
    except SchemaMismatch:
        raise
    except DatabaseUnavailable as error:
        # Of two transactions that wait for each other, Postgres undoes one, which may be that of a single line.
        if error.outcome_unknown or (len(items) == 1 and (error.waited_s or tries == 1)):
            raise
        part = 1
    except SessionsError as error:
        if len(items) == 1:
            yield Outcome.REFUSED, 0, str(error)
            return
    else:
        for item, is_new in zip(items, stored, strict=True):
            yield (Outcome.IMPORTED, _size(item), None) if is_new else (Outcome.ALREADY_THERE, 0, None)
        return
    for start in range(0, len(items), part):
        yield from _store(manager, agent_id, items[start : start + part], tries - (len(items) == 1))


def _size(item: _Item) -> int:
    return len(item.messages) + (len(item.archived_messages) if isinstance(item, ExportedSession) else 0)


def _store_together(manager: SessionManager, agent_id: str | None, items: Sequence[_Item]) -> list[bool]:
    """Whether each was stored, and not there already; all in one transaction."""
    sessions = [item for item in items if isinstance(item, ExportedSession)]
    if sessions:
        return manager.import_sessions(sessions)
    conversations = [item for item in items if isinstance(item, _Conversation)]
    assert agent_id is not None
    with manager.transaction() as tx:
        main_key = tx.get_or_create_main(agent_id).key
        return [_store_conversation(tx, agent_id, main_key, each) for each in conversations]


def _store_conversation(tx: Transaction, agent_id: str, main_key: str, conversation: _Conversation) -> bool:
    key = tx.spawn_subagent(
        agent_id,
        conversation.task,
        conversation.label,
        main_key,
        metadata=conversation.metadata,
        idempotency_key=conversation.idempotency_key,
    )
    session = tx.get(key)
    if session is None or session.status is not SessionStatus.ACTIVE or session.message_count:
        return False
    tx.add_messages(key, conversation.messages)
    tx.complete_session(key)
    said = [new for new in conversation.messages if new.role in (Role.USER, Role.ASSISTANT) and new.content]
    tx.add_messages(main_key, [NewMessage(new.role, new.content) for new in said])
    return True
