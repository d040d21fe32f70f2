"""Every argument of every public method, given what nobody should pass.

Any value is stored exactly or refused with the argument's name, on both databases alike, and a call that is refused
stores nothing. The methods and arguments are found by inspecting the classes, so none can be forgotten.
"""

from __future__ import annotations

import inspect
import json
import math
import tracemalloc
import uuid
from collections import UserDict, UserString, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions_db import (
    DatabaseUnavailable,
    ExportedSession,
    IdempotencyConflict,
    InvalidInput,
    LabelConflict,
    LabelInUse,
    NewMessage,
    Role,
    Session,
    SessionChanged,
    SessionKind,
    SessionManager,
    SessionNotActive,
    SessionNotFound,
    SessionStatus,
)
from sessions_db.store import SessionStore
from tests.support.both import CRON, MAIN, SUBAGENT, Both, Failure, State, both_databases
from tests.support.commands import run
from tests.support.databases import PostgresDatabases, SQLiteDatabases
from tests.support.examples import FACTOR, examples, note

pytestmark = pytest.mark.usefixtures("clock")


class Text(str):
    """A string that is not quite a str."""

    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Number(int):
    """A number that is not quite an int."""

    def __str__(self) -> str:
        return "something else"


class Colour(StrEnum):
    USER = "user"
    RED = "red"


class Level(IntEnum):
    ONE = 1


class Plain(Enum):
    USER = "user"


class Unprintable:
    """Can't be shown in an error."""

    def __repr__(self) -> str:
        raise ZeroDivisionError

    __str__ = __repr__


class Forgiving:
    """A class that can be constructed with anything, for where a function is expected."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments


class Fresh:
    """A value that a call uses up, made anew for each call."""

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


def nested(levels: int, kind: type = dict) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value} if kind is dict else [value]
    return value


def in_itself(kind: type) -> Any:
    value: Any = {} if kind is dict else []
    if kind is dict:
        value["a"] = value
    else:
        value.append(value)
    return value


def position(**changes: Any) -> Session:
    fields: dict[str, Any] = {
        "key": SUBAGENT,
        "agent_id": "main",
        "kind": SessionKind.MAIN,
        "status": SessionStatus.ACTIVE,
        "created_ms": 2000,
        "message_count": 0,
        "last_activity_ms": 1,
    }
    return Session(**(fields | changes))


GOOD_TEXTS = [
    "",
    " ",
    "\t\r\n",
    "\x01\x08\x1b[31m\x1f\x7f\x80\x85\x9f",
    "\u202eright to left\u202c \u2066isolated\u2069",
    "\u200b\u200c\u200d\u2060\ufeffzero width",
    "\u2028\u2029",
    "\ud7ff\ue000\ufdd0\ufffe\uffff\U0001fffe\U0010ffff",
    "e\u0301 \u00e9 \u1e9b\u0323 \ufb01 \u0130\u0131 \u00df",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "Z̸̡̢̛͎̼" * 20,
    "'; DROP TABLE sessions; --",
    "x' OR '1'='1",
    '" OR ""="',
    "1); DELETE FROM messages; --",
    "$1 $$ $body$ E'\\x41' U&'\\0041'",
    "%s %d %% % %(key)s %(new_content)s",
    "{0} {} {key} {0.__class__} ${HOME} `id` $(id)",
    ":key ?1 ? @key #{key}",
    "a\\b\\\\ \\' \\x00 \\u0000 \\N",
    "%",
    "_",
    "*[a-z]?",
    "NULL",
    "null",
    "true",
    "NaN",
    "-1",
    "1e999",
    "{}",
    "[",
    '{"a": 1}',
    "{a,b}",
    "\\.",
    "../../etc/passwd",
    "user",
    "main",
    "agent",
    "a:b",
    "agent:%:main",
    "agent:main:main:",
    MAIN,
    MAIN.upper(),
    "x" * 255,
    "\U0001f600" * 255,
    "x" * 256,
    "\u00e9" * 5_000,
    "x" * 100_000,
    Text("subclass"),
    Colour.RED,
]
BAD_TEXTS = [
    "\0",
    "a\0",
    "x" * 1000 + "\0",
    "\ud800",
    "\udfff",
    "\udfff\ud800",
    "\ud83d\ude00",  # two surrogates do not make a character
    b"caf\xe9 \xff\xfe \xed\xa0\x80 \xf4\x90\x80\x80".decode("utf-8", "surrogateescape"),
    Text("\0"),
    Text("\ud800"),
]
NUMBERS: list[Any] = [
    *(0, 1, -1, 2, 100, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, 2**70, 10**30, 10**5000),
    *(-(2**31), -(2**31) - 1, -(2**63), -(2**63) - 1, -(10**30), -(10**5000)),
    *(0.0, -0.0, 1.0, 1.5, 5e-324, 1e22, 1e308, math.nan, math.inf, -math.inf),
    *(True, False, Number(5), Level.ONE, Decimal(1), Decimal("NaN"), Fraction(1, 2), 1j),
]
MAPPINGS: list[Any] = [
    {},
    {"": ""},
    {"a": None, "b": True, "c": [], "d": {}, "e": -0.0, "f": 5e-324, "g": 1e308, "h": 2**63, "i": -(10**100)},
    {"z": 1, "a": 2, "\u202e": 3, "%s": 4, "'": 5, "$.a": 6, "a.b[0]": 7, "__proto__": 8, "\\u0000": 9},
    {"a": 10**4200},
    {"a": 10**4300},
    {"a": -(10**5000)},
    {"a": (1, (2, [3]))},
    {Text("key"): Text("value"), Colour.RED: Colour.USER, "n": Number(7), "l": Level.ONE},
    {"a": math.nan},
    {"a": [0, {"b": -math.inf}]},
    {"a": Decimal(1)},
    {"a": b"bytes"},
    {"a": {1, 2}},
    {"a": object()},
    {"a": Unprintable()},
    {"a": datetime(2026, 1, 1, tzinfo=UTC)},
    {1: 1},
    {1: math.nan},
    {None: 1},
    {b"a": 1},
    {(1, 2): 1},
    {10**5000: 1},
    {Unprintable(): 1},
    {"\0": 1},
    {"a": {"\ud800": 1}},
    {"a": ["\0"]},
    {"\ud800": math.nan},
    {"k" * 100_000: math.nan},
    {"k" * 100_000: 1},
    {f"key {number}": number for number in range(3000)},
    {"a": list(range(20_000))},
    nested(99),
    nested(100),
    nested(101),
    nested(100_000),
    {"a": nested(99, list)},
    {"a": nested(100, list)},
    {"a": nested(100_000, list)},
    in_itself(dict),
    {"a": in_itself(list)},
    UserDict({"a": 1}),
    MappingProxyType({"a": MappingProxyType({"b": 1})}),
]
SESSIONS = [
    position(),
    *(position(key=key) for key in ["", "'", MAIN, "x" * 100_000, "\0", "\ud800", None, b"", 1]),
    *(position(created_ms=at) for at in [*NUMBERS, None, "1"]),
]
MESSAGES: list[Any] = [
    [NewMessage("user", text, text[:255], {text: text}, text[:255] or None) for text in GOOD_TEXTS],
    [NewMessage("user", str(number)) for number in range(250)],
    [NewMessage("user", str(number % 3), idempotency_key=str(number % 3)) for number in range(250)],
    [NewMessage("user", "x" * 100_000)] * 3,
    (NewMessage("tool", "", "", {}, "once"), NewMessage("tool", "", "", {}, "once")),
    Fresh(lambda: (NewMessage("user", str(number)) for number in range(3))),
    Fresh(lambda: iter([NewMessage("user", "good"), "bad"])),
    [NewMessage("user", "good"), None],
    [NewMessage("user", "good"), ("user", "bad")],
    [NewMessage("user", "good"), {"role": "user", "content": "bad"}],
    [[NewMessage("user", "bad")]],
    [Unprintable()],
    {"a": NewMessage("user", "bad")},
    deque([NewMessage("user", "good")]),
    NewMessage("user", "bad"),
]
OTHERS: list[Any] = [
    *(None, ..., NotImplemented, object(), Forgiving, max, math, Unprintable(), ValueError("x"), Path("x")),
    *(b"", b"main", b"\xff", bytearray(b"main"), memoryview(b"main"), UserString("main")),
    *([], (), set(), frozenset(), range(3), ["main"], ("subagent", "cron"), {"main"}, [None], [[]], [1], [b"main"]),
    *(["main", "main"], ["main", "maim"], ["\0"], [Text("main")], [Colour.USER], ["x" * 100_000], [Unprintable()]),
    *([SessionKind.MAIN], {SessionKind.MAIN: 1}, [SessionStatus.ERROR], ["main"] * 1000),
    *(Fresh(lambda: iter(["main", "cron"])), Fresh(lambda: (kind for kind in SessionKind))),
    *(*SessionKind, *SessionStatus, *Role, *LabelConflict, Plain.USER, Colour.USER),
    *("MAIN", "main ", "Active", "SessionStatus.ACTIVE", "replace", "error", "subagent"),
    *(
        uuid.UUID(int=0),
        datetime(2000, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        slice(1),
    ),
    *(timedelta(days=1000), timedelta(0), timedelta(-1), timedelta.max, timedelta.min, timedelta(microseconds=1)),
]
# What is passed for the other arguments.
USUAL: dict[str, object] = {
    "agent_id": "main",
    "task": "Test",
    "key": MAIN,
    "label": "research",
    "message": "Hello",
    "name": "talk",
    "at_seq": 2,
    "messages": [NewMessage("user", "Hello")],
    "role": "user",
    "content": "Hello",
    "older_than": timedelta(days=1000),
    "seq": 1,
    "reason": "asked for",
    "text": "t",
    "session": ExportedSession(
        key="agent:main:cron:imported",
        agent_id="main",
        kind="cron",
        status="active",
        run_id="imported",
        created_ms=1,
        message_cap=1,
        last_seq=0,
        last_activity_ms=1,
        archive_trimmed=False,
    ),
}
USUAL["sessions"] = [USUAL["session"]]
STORED_SESSIONS: list[Any] = [
    USUAL["session"],
    replace(cast(ExportedSession, USUAL["session"]), key="\0"),
    replace(cast(ExportedSession, USUAL["session"]), created_ms=10**30),
]
EVERYTHING: list[Any] = [
    *(*GOOD_TEXTS, *BAD_TEXTS, *NUMBERS, *MAPPINGS, *SESSIONS, *STORED_SESSIONS, *MESSAGES, *OTHERS),
]


def public_methods(owner: type) -> dict[str, Callable[..., object]]:
    return {
        name: method
        for name, method in inspect.getmembers(owner, inspect.isfunction)
        if not name.startswith("_") and len(inspect.signature(method).parameters) > 1
    }


def of_a_session(name: str) -> Callable[..., object]:
    def call(manager: SessionManager, **arguments: object) -> object:
        session = manager.get(SUBAGENT)
        assert session is not None
        return getattr(session, name)(**arguments)

    return call


def iterate(manager: SessionManager, **arguments: Any) -> object:
    return [*manager.iterate(**arguments)]


def store_new_message(manager: SessionManager, **arguments: Any) -> object:
    return manager.add_messages(MAIN, [NewMessage(**arguments)])


# What to call, and with which arguments.
OPERATIONS: dict[str, tuple[Callable[..., object], dict[str, inspect.Parameter]]] = {
    **{
        name: (method, dict(inspect.signature(method).parameters))
        for name, method in public_methods(SessionStore).items()
    },
    **{
        f"Session.{name}": (of_a_session(name), dict(inspect.signature(method).parameters))
        for name, method in public_methods(Session).items()
    },
    "iterate": (iterate, dict(inspect.signature(SessionStore.iterate).parameters)),
    "NewMessage": (store_new_message, dict(inspect.signature(NewMessage).parameters)),
}
ARGUMENTS = [
    (name, argument) for name, (_, arguments) in OPERATIONS.items() for argument in arguments if argument != "self"
]

# Values for required arguments.
# Some arguments only take effect together with others.
COMPANIONS: dict[tuple[str, str], dict[str, object]] = {
    ("spawn_subagent", "on_label_conflict"): {"label": "research"},
    ("update_session", "on_label_conflict"): {"label": "research"},
    ("update_session", "metadata"): {"replace_metadata": True},
    ("update_session", "replace_metadata"): {"metadata": {"a": None}},
    ("fork_session", "on_label_conflict"): {"label": "research"},
    **{
        (sweep, argument): {"older_than": USUAL["older_than"]}
        for sweep in ("prune", "timeout_idle")
        for argument in ("kinds", "agent_id", "status", "dry_run", "progress")
        if (sweep, argument) != ("timeout_idle", "status")
    },
}

# Where an argument is stored, if at all.
STORED = {
    "agent_id": ("sessions", "agent_id"),
    "task": ("sessions", "task"),
    "label": ("labels", "label"),
    "parent_key": ("sessions", "parent_key"),
    "message_cap": ("sessions", "message_cap"),
    "reason": ("sessions", "end_reason"),
    "message": ("messages", "content"),
    "content": ("messages", "content"),
    "role": ("messages", "role"),
    "tool_name": ("messages", "tool_name"),
}

EXPECTED = (InvalidInput, SessionNotFound, SessionNotActive, SessionChanged, LabelInUse, IdempotencyConflict)


def usual(operation: str, argument: str) -> dict[str, object]:
    _, parameters = OPERATIONS[operation]
    needed = [name for name, each in parameters.items() if each.default is inspect.Parameter.empty and name != "self"]
    return {name: USUAL[name] for name in needed if name != argument} | COMPANIONS.get((operation, argument), {})


def fresh_copy(value: Any) -> Any:
    return value.make() if isinstance(value, Fresh) else value


def as_json(value: Any) -> Any:
    """The value after a round trip through JSON."""
    match value:
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case int():
            return int(value)
        case float():
            return value
        case Mapping():
            return {str.__str__(key): as_json(item) for key, item in value.items()}
        case _:
            return [as_json(item) for item in value]


def shown(value: object) -> str:
    return InvalidInput("", "", value).value


def is_named(argument: str, named: str) -> bool:
    """Whether an error names the argument or a place in it."""
    named = named.removeprefix("a key of ")
    if argument == "before" and named == "older_than":  # one of the two must be given
        return True
    if argument == "session" and named in {field.name for field in fields(ExportedSession)}:
        return True
    return named == argument or named.startswith((f"{argument}[", f"{argument}."))


def attempt(
    call: Callable[..., object], argument: str, value: object, rest: Mapping[str, object], manager: SessionManager
) -> object:
    return call(manager, **{argument: fresh_copy(value), **rest})


def check_refusal(failure: Failure, arguments: Collection[str]) -> None:
    assert issubclass(failure.kind, EXPECTED), failure
    if failure.kind is InvalidInput:
        assert any(is_named(argument, failure.text.partition(" must ")[0]) for argument in arguments), failure


def check_stored(operation: str, argument: str, value: Any, state: State) -> None:
    if argument == "metadata" and value is not None and value is not ...:
        table = "messages" if operation in ("add_message", "send_message", "NewMessage") else "sessions"
        stored = [json.loads(row["metadata"]) for row in state[table] if row["metadata"] is not None]
        # Compared as text: key order, and 1 and 1.0 differ.
        assert repr(as_json(value)) in map(repr, stored)
    elif (operation, argument) == ("redact_message", "reason"):
        assert as_json(value) in [
            json.loads(row["metadata"])["redacted"] for row in state["messages"] if row["metadata"]
        ]
    elif argument in STORED and value is not None and operation not in ("prune", "timeout_idle"):
        table, column = STORED[argument]
        assert as_json(value) in [row[column] for row in state[table]]


@pytest.fixture(scope="module")
def both(sqlite_databases: SQLiteDatabases, postgres_databases: PostgresDatabases) -> Iterator[Both]:
    with both_databases(sqlite_databases, postgres_databases) as databases:
        yield databases


@pytest.mark.parametrize(("operation", "argument"), ARGUMENTS, ids=map(".".join, ARGUMENTS))
def test_anything_is_stored_exactly_or_refused_by_name(
    both: Both, operation: str, argument: str, request: pytest.FixtureRequest
) -> None:
    call, _ = OPERATIONS[operation]
    rest = usual(operation, argument)
    both.reset()
    before, size = both.state(), both.size()
    start = both.calls
    refused = 0
    faults: list[str] = []

    # In a quick run each argument gets another third of the values.
    values = EVERYTHING if FACTOR > 1 else EVERYTHING[ARGUMENTS.index((operation, argument)) % 3 :: 3]
    for value in values:
        try:
            outcome = both.outcome(partial(attempt, call, argument, value, rest))
            if isinstance(outcome, Failure):
                refused += 1
                check_refusal(outcome, [argument])
                assert both.size() == size, "the refused call left something"
                # Short enough for a log, whatever was passed. (An unknown key is shown in full.)
                assert len(outcome.text) < 1000 or outcome.kind is SessionNotFound, "the error is too long"
            elif (after := both.state()) != before:
                check_stored(operation, argument, value, after)
                both.outcome(lambda manager: manager.list(limit=1000, message_limit=1000))
                both.reset()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is reported with the others
            faults.append(f"{operation}({argument}={shown(value)}): {error!r}"[:1000])
            both.reset()

    note(request, "calls", both.calls - start)
    assert faults == []
    assert refused > 0
    assert FACTOR == 1 or refused < len(values)


def test_every_argument_of_the_public_methods_is_tried() -> None:
    tried = set(ARGUMENTS)

    assert len(public_methods(SessionStore)) >= 20
    assert {("add_message", "idempotency_key"), ("list", "before"), ("NewMessage", "metadata")} < tried
    assert {("Session.runtime_secs", "now_ms"), ("Session.spawn_result", "message")} < tried


def test_a_transaction_continues_after_anything_it_refused(both: Both) -> None:
    both.reset()

    def write(manager: SessionManager) -> int:
        refused = 0
        with manager.transaction() as tx:
            tx.add_message(MAIN, "user", "before")
            for operation, argument in ARGUMENTS:
                for value in ("\0", "\ud800", 2**63, -1, math.nan, b"bytes", ["\0"], {"a": math.nan}):
                    call, _ = OPERATIONS[operation]
                    try:
                        if not operation.startswith(("delete", "prune", "reopen", "timeout_idle", "Session.")):
                            call(tx, **{argument: value, **usual(operation, argument)})
                    except InvalidInput:
                        refused += 1
            tx.add_message(MAIN, "user", "after")
        return refused

    refused = both.outcome(write)

    assert isinstance(refused, int)
    assert refused > 200
    contents = [row["content"] for row in both.state()["messages"]]
    assert {"before", "after"} < set(contents)
    assert "\0" not in "".join(contents)


def test_the_longest_names_together_fit_every_index(both: Both) -> None:
    # Different characters of four bytes each, because repetitions would be compressed.
    agent, label, key = (
        "".join(chr(0x10000 + (start + number) * 37) for number in range(255)) for start in (0, 1000, 2000)
    )

    def write(manager: SessionManager) -> object:
        main = manager.get_or_create_main(agent)
        cron = manager.spawn_cron(agent, "Test", label, main.key, idempotency_key=key)
        manager.add_message(cron, "tool", "Hello", tool_name=label, idempotency_key=key)
        manager.add_message(cron, "tool", "Hello", tool_name=label, idempotency_key=key)
        return manager.list(agent_id=agent, parent_key=main.key, message_limit=5), manager.get_by_label(label)

    both.reset()
    outcome = both.outcome(write)

    assert not isinstance(outcome, Failure)
    row = next(row for row in both.state()["messages"] if row["idempotency_key"] is not None)
    assert (row["tool_name"], row["idempotency_key"]) == (label, key)


# Escapes make the JSON of unusual text six times as long, and slow.
@pytest.mark.parametrize(
    ("unit", "megabytes"),
    [("x", 10), ("\u202e\U0001f600'%s\\", 2 if FACTOR == 1 else 10), ('"\x01\n{', 1 if FACTOR == 1 else 10)],
    ids=["plain", "odd", "escaped"],
)
def test_megabytes_of_text_come_back_exactly_wherever_text_goes(both: Both, unit: str, megabytes: int) -> None:
    text = unit * (megabytes * 2**20 // len(unit.encode()))

    def write(manager: SessionManager) -> object:
        key = manager.spawn_subagent("main", text, idempotency_key="big", metadata={text[: 2**20]: text})
        manager.add_message(key, "user", text, metadata={"a": [text]})
        manager.add_messages(key, [NewMessage("user", text, metadata={"a": {"b": text}})])
        manager.stop_session(key, text)
        session = manager.get(key)
        assert session is not None
        assert (session.task, session.end_reason, session.metadata) == (text, text, {text[: 2**20]: text})
        assert [message.content for message in session.messages] == [text, text]
        assert [message.metadata for message in session.messages] == [{"a": [text]}, {"a": {"b": text}}]
        # As a filter, and as keys that do not exist.
        assert manager.get(text) is manager.get_by_label(text) is None
        assert manager.list(agent_id=text) == manager.list(parent_key=text) == manager.children(text) == []
        return manager.delete_session(key)

    both.reset()

    assert both.outcome(write) is True


# Metadata with long paths must not take more memory than its own size.
def test_metadata_that_is_deep_and_has_long_keys_is_refused_in_little_memory(both: Both) -> None:
    value: Any = math.nan
    for _ in range(100):
        value = {"k" * 100_000: value}
    tracemalloc.start()
    try:
        outcome = both.outcome(lambda manager: manager.add_message(MAIN, "user", "", metadata=value))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert isinstance(outcome, Failure)
    assert outcome.kind is InvalidInput
    assert peak < 100 * 100_000 * 4


OPTIONS = [
    "schema",
    "create",
    "migrate",
    "message_cap",
    "archive_trimmed",
    "actor",
    "read_only",
    "synchronous",
    "retry_budget_s",
    "pool_size",
    "poll_interval",
]


def test_every_option_of_the_manager_is_tried() -> None:
    assert ["database", *OPTIONS] == [*inspect.signature(SessionManager).parameters]


@pytest.mark.parametrize("option", OPTIONS)
def test_any_option_of_the_manager_works_or_is_refused_by_name(
    url: str, option: str, request: pytest.FixtureRequest
) -> None:
    faults: list[str] = []

    values = EVERYTHING if FACTOR > 1 else EVERYTHING[OPTIONS.index(option) % 3 :: 3]
    for value in values:
        options: dict[str, Any] = {option: fresh_copy(value)}
        try:
            with SessionManager(url, **options) as manager:
                if option != "read_only":
                    manager.get_or_create_main("main")
                    manager.send_message(MAIN, "Hello")
                manager.get(MAIN)
        except InvalidInput as error:
            if error.argument != option or len(str(error)) > 1000:
                faults.append(f"{option}={shown(value)}: {error!r}"[:1000])
        except Exception as error:  # noqa: BLE001  # whatever it is, it is reported with the others
            faults.append(f"{option}={shown(value)}: {error!r}"[:1000])

    note(request, "calls", len(values))
    assert faults == []


def test_anything_for_a_database_is_opened_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    faults: list[str] = []
    values = [
        *(value for value in EVERYTHING if not isinstance(value, str)),
        *(f"sqlite:///{text}" for text in (*GOOD_TEXTS, *BAD_TEXTS) if not text.startswith(("..", "/"))),
        *(text for text in (*GOOD_TEXTS, *BAD_TEXTS)),
        *(f"postgresql://127.0.0.1:1/{text}" for text in (*GOOD_TEXTS, *BAD_TEXTS)),
        *(f"postgresql://{text}@127.0.0.1:1/x" for text in (*GOOD_TEXTS, *BAD_TEXTS)),
    ]

    for value in values:
        try:
            SessionManager(fresh_copy(value), retry_budget_s=0).close()
        except (InvalidInput, DatabaseUnavailable):
            pass
        except Exception as error:  # noqa: BLE001  # whatever it is, it is reported with the others
            faults.append(f"{shown(value)}: {error!r}"[:1000])

    note(request, "calls", len(values))
    assert faults == []


COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "show": lambda text: ["show", "--", text],
    "history": lambda text: ["history", "--", text],
    "history --limit": lambda text: ["history", MAIN, f"--limit={text}"],
    "list --agent": lambda text: ["list", f"--agent={text}"],
    "list --parent": lambda text: ["list", f"--parent={text}"],
    "list --limit": lambda text: ["list", f"--limit={text}"],
    "import --agent": lambda text: ["import", "-", f"--agent={text}"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_any_argument_of_a_command_is_answered_or_refused_in_one_line(url: str, command: str) -> None:
    faults: list[str] = []

    for text in [*GOOD_TEXTS, *BAD_TEXTS, *map(repr, NUMBERS[:15])]:
        result = run(*COMMANDS[command](str.__str__(text)), db=url)
        told = result.stderr.splitlines()
        if result.exit_code == 2:  # from Click, which shows the usage first
            told = told[3:]
        if (
            result.exit_code not in (0, 1, 2)
            or not isinstance(result.exception, SystemExit | None)
            or len(told) != (result.exit_code > 0)
        ):
            faults.append(f"{shown(text)}: {result.exit_code}, {result.exception!r}, {told[:3]!r}"[:500])

    assert faults == []


# Random values in random combinations.

texts = st.text() | st.text(st.characters(codec="utf-8", min_codepoint=1)) | st.sampled_from([*GOOD_TEXTS, *BAD_TEXTS])
numbers = st.integers() | st.integers(-(2**64), 2**64) | st.floats() | st.booleans()
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | texts | numbers | st.binary(max_size=3),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(texts | st.integers(), children, max_size=4),
    max_leaves=12,
)
values = st.none() | texts | numbers | json_values | st.dictionaries(texts, json_values, max_size=4) | st.binary()
good_values = {
    "metadata": st.dictionaries(st.text(st.characters(codec="utf-8", min_codepoint=1)), json_values, max_size=4),
    "kinds": st.lists(st.sampled_from([*SessionKind, "main", "cron"])),
    "role": st.sampled_from([*Role, "user", "tool"]),
    "key": st.sampled_from([MAIN, SUBAGENT, CRON]),
    "parent_key": st.sampled_from([MAIN, SUBAGENT, CRON]),
    "limit": st.integers(0, 2**63 - 1),
    "message_limit": st.integers(0, 2**63 - 1),
    "message_cap": st.integers(1, 3),
}


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """An operation, and values for some of its arguments."""
    operation = draw(st.sampled_from(sorted(OPERATIONS)))
    _, parameters = OPERATIONS[operation]
    arguments: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if name == "self" or (parameter.default is not inspect.Parameter.empty and draw(st.booleans())):
            continue
        choices = [values, texts]
        if name in good_values:
            choices += [good_values[name]] * 3
        if name in USUAL:
            choices += [st.just(USUAL[name])] * 3
        arguments[name] = draw(st.one_of(choices))
    if "older_than" in parameters and not arguments.keys() & {"older_than", "before"}:
        arguments["older_than"] = USUAL["older_than"]
    return operation, arguments


@examples(600)
@given(drawn=calls())
def test_random_arguments_are_stored_exactly_or_refused_by_name(both: Both, drawn: tuple[str, dict[str, Any]]) -> None:
    operation, arguments = drawn
    call, _ = OPERATIONS[operation]
    both.reset()
    before = both.state()

    outcome = both.outcome(lambda manager: call(manager, **arguments))

    after = both.state()
    if isinstance(outcome, Failure):
        check_refusal(outcome, arguments)
        assert after == before
    elif after != before:
        for argument, value in arguments.items():
            check_stored(operation, argument, value, after)
