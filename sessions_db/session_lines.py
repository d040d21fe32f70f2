"""A whole session as a line of JSON, written and read.

Metadata stands in the line as the text that is stored, so that the order of its keys and its numbers come back exactly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Final

from sessions_db import validation
from sessions_db.errors import InvalidInput
from sessions_db.models import Role, SessionKind, SessionStatus
from sessions_db.operations.transferring import WholeMessage, WholeSession, on_one_line
from sessions_db.validation import JsonValue

FORMAT: Final = "sessions-db/1"
"""What each line says of itself, as `format`."""

_FAMILY = FORMAT.partition("/")[0] + "/"

_MIN_INTEGER = -(2**63)

# An agent id, the longest kind and a UUID, with what stands between: two such keys fit an index of Postgres's.
_MAX_KEY_LENGTH = len("agent::subagent:") + validation.MAX_NAME_LENGTH + 36


def to_line(session: WholeSession) -> bytes:
    """The session as a line of JSON in UTF-8, with its line feed. Fields that are None are left out."""
    members = {"format": _encode(FORMAT)} | _members(session, _SESSION_FIELDS)
    members["labels"] = _encode([{"label": label, "assigned_ms": at_ms} for label, at_ms in session.labels])
    for name, messages in (("messages", session.messages), ("archived_messages", session.archived_messages)):
        members[name] = f"[{', '.join(_object(_members(message, _MESSAGE_FIELDS)) for message in messages)}]"
    return f"{_object(members)}\n".encode()


_SESSION_FIELDS = [field.name for field in fields(WholeSession) if field.default is MISSING]
_MESSAGE_FIELDS = [field.name for field in fields(WholeMessage)]


def _members(stored: WholeSession | WholeMessage, names: Sequence[str]) -> dict[str, str]:
    values = {name: getattr(stored, name) for name in names}
    return {
        name: value if name == "metadata" else _encode(value) for name, value in values.items() if value is not None
    }


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _object(members: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{_encode(name)}: {text}' for name, text in members.items())}}}"


def is_session(value: Mapping[str, JsonValue]) -> bool:
    """Whether the line's object says that it is a session, of this version of the format or another."""
    name = value.get("format")
    return isinstance(name, str) and name.startswith(_FAMILY)


def from_line(text: str) -> WholeSession:
    """The session of a line that is known to be a JSON object.

    Raises:
        InvalidInput: it names the field that can't be stored.
    """
    members = _Members(text)
    members.take("format", _format)
    agent_id = members.take("agent_id", lambda _, value: validation.agent_id(value))
    kind = members.take("kind", lambda name, value: validation.choice(name, value, SessionKind))
    status = members.take("status", lambda name, value: validation.choice(name, value, SessionStatus))
    spawned, ended = kind is not SessionKind.MAIN, status is not SessionStatus.ACTIVE
    session = WholeSession(
        key=members.take("key", lambda name, value: _own_key(name, value, agent_id, kind)),
        agent_id=agent_id,
        kind=kind.value,
        status=status.value,
        label=members.take("label", validation.optional_name),
        task=members.take("task", validation.optional_text),
        run_id=members.take("run_id", validation.name if spawned else _nothing("for a main session")),
        parent_key=members.take("parent_key", lambda name, value: None if value is None else _key(name, value)),
        created_ms=members.take("created_ms", _integer),
        finished_ms=members.take("finished_ms", _integer if ended else _nothing("for an active session")),
        end_reason=members.take("end_reason", validation.optional_text if ended else _nothing("for an active session")),
        metadata=members.take_metadata(),
        message_cap=members.take(
            "message_cap", lambda name, value: validation.integer(name, value, minimum=1, maximum=2**31 - 1)
        ),
        archive_trimmed=members.take("archive_trimmed", validation.flag),
        message_count=members.take("message_count", lambda name, value: validation.integer(name, value, minimum=0)),
        last_activity_ms=members.take("last_activity_ms", _integer),
        labels=tuple(members.take_each("labels", _label)),
        messages=tuple(members.take_each("messages", _message)),
        archived_messages=tuple(members.take_each("archived_messages", _archived_message)),
    )
    members.end()
    _check_labels(session.labels)
    _check_numbers(session)
    return session


def _label(members: _Members) -> tuple[str, int]:
    return members.take("label", validation.name), members.take("assigned_ms", _integer)


def _message(members: _Members) -> WholeMessage:
    return WholeMessage(
        seq=members.take("seq", lambda name, value: validation.integer(name, value, minimum=1)),
        role=members.take("role", lambda name, value: validation.choice(name, value, Role).value),
        content=members.take("content", validation.text),
        tool_name=members.take("tool_name", validation.optional_name),
        metadata=members.take_metadata(),
        timestamp_ms=members.take("timestamp_ms", _integer),
        idempotency_key=members.take("idempotency_key", lambda _, value: validation.idempotency_key(value)),
    )


def _archived_message(members: _Members) -> WholeMessage:
    archived_ms = members.take("archived_ms", _integer)
    return replace(_message(members), archived_ms=archived_ms)


def _check_labels(labels: Sequence[tuple[str, int]]) -> None:
    known: set[str] = set()
    for position, (label, _) in enumerate(labels):
        if label in known:
            raise InvalidInput.of(f"labels[{position}].label", "must not be there twice", label)
        known.add(label)


def _check_numbers(session: WholeSession) -> None:
    """Refuse numbers that the triggers would refuse, or messages that they would trim at once."""
    last_trimmed = session.message_count - session.message_cap
    known: set[str] = set()
    before = max(0, last_trimmed)
    for position, message in enumerate(session.messages):
        if not before < message.seq <= session.message_count:
            allowed = f"from {max(0, last_trimmed) + 1} (message_cap says) to message_count"
            raise InvalidInput.of(f"messages[{position}].seq", f"must go up, {allowed}", message.seq)
        before = message.seq
        if message.idempotency_key in known:
            field = f"messages[{position}].idempotency_key"
            raise InvalidInput.of(field, "must not be that of another message", message.idempotency_key)
        if message.idempotency_key is not None:
            known.add(message.idempotency_key)
    retained = {message.seq for message in session.messages}
    before = 0
    for position, message in enumerate(session.archived_messages):
        field = f"archived_messages[{position}].seq"
        if not before < message.seq <= session.message_count:
            raise InvalidInput.of(field, "must go up, from 1 to message_count", message.seq)
        if message.seq in retained:
            raise InvalidInput.of(field, "must not be that of a retained message", message.seq)
        before = message.seq


def _format(name: str, value: JsonValue) -> JsonValue:
    if value != FORMAT:
        raise InvalidInput.of(name, f"must be {FORMAT!r} for this release", value)
    return value


def _integer(name: str, value: JsonValue) -> int:
    return validation.integer(name, value, minimum=_MIN_INTEGER)


def _key(name: str, value: JsonValue) -> str:
    key = validation.text(name, value)
    if len(key) > _MAX_KEY_LENGTH:
        raise InvalidInput.of(name, f"must be at most {_MAX_KEY_LENGTH} characters", key)
    return key


def _own_key(name: str, value: JsonValue, agent_id: str, kind: SessionKind) -> str:
    key, main = _key(name, value), f"agent:{agent_id}:{kind}"
    if not (key == main if kind is SessionKind.MAIN else key.startswith(f"{main}:")):
        raise InvalidInput.of(name, "must be made of the session's agent_id and kind", key)
    return key


def _nothing(why: str) -> Callable[[str, JsonValue], None]:
    def check(name: str, value: JsonValue) -> None:
        if value is not None:
            raise InvalidInput.of(name, f"must be left out {why}", value)

    return check


@dataclass(frozen=True, slots=True)
class _Json:
    value: Any
    text: str


class _Members:
    """The members of an object, each to be taken once."""

    def __init__(self, text: str) -> None:
        self._members: dict[str, _Json] = {}
        for name, member in _members_of(text):
            if name in self._members:
                raise InvalidInput.of(name, "must not be there twice", member.value)
            self._members[name] = member

    def take(self, name: str, check: Callable[[str, Any], Any]) -> Any:
        """The checked value; None is checked where there is none."""
        member = self._members.pop(name, None)
        return check(name, None if member is None else member.value)

    def take_metadata(self) -> str | None:
        """The text of the metadata."""
        member = self._members.pop("metadata", None)
        if member is None or member.value is None:
            return None
        validation.metadata("metadata", member.value)
        return on_one_line(member.text)

    def take_each(self, name: str, take: Callable[[_Members], Any]) -> Iterator[Any]:
        """What `take` makes of each object of a list."""
        member = self._members.pop(name, None)
        if member is None or not isinstance(member.value, list):
            raise InvalidInput.of(name, "must be a list", None if member is None else member.value)
        for position, element in enumerate(_elements_of(member.text)):
            try:
                if not isinstance(element.value, dict):
                    raise InvalidInput.of("", "must be an object", element.value)
                members = _Members(element.text)
                taken = take(members)
                members.end()
            except InvalidInput as error:
                where = f"{name}[{position}]" + (f".{error.argument}" if error.argument else "")
                raise InvalidInput(where, error.reason, error.value) from error
            yield taken

    def end(self) -> None:
        """Refuse what was not taken: it would be lost."""
        for name, member in self._members.items():
            raise InvalidInput.of(name, f"must not be there: {FORMAT} has no such field", member.value)


_BLANK = " \t\n\r"


_DECODER = json.JSONDecoder()


def _members_of(text: str) -> Iterator[tuple[str, _Json]]:
    """The members of an object that is known to be JSON."""
    at = _after_blank(text, _after_blank(text, 0) + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _after_blank(text, _after_blank(text, at) + 1)
        value, end = _DECODER.raw_decode(text, at)
        yield name, _Json(value, text[at:end])
        at = _after_separator(text, end)


def _elements_of(text: str) -> Iterator[_Json]:
    """The elements of a list that is known to be JSON."""
    at = _after_blank(text, 1)
    while text[at] != "]":
        value, end = _DECODER.raw_decode(text, at)
        yield _Json(value, text[at:end])
        at = _after_separator(text, end)


def _after_blank(text: str, at: int) -> int:
    while text[at] in _BLANK:
        at += 1
    return at


def _after_separator(text: str, at: int) -> int:
    at = _after_blank(text, at)
    return _after_blank(text, at + 1) if text[at] == "," else at
