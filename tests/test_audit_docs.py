"""The audit cookbook: each query of docs/audit.md is run as printed on the same data in both databases."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from sessions_db import NewMessage, SessionManager, SessionNotActive, schema
from sessions_db.schemas import make_audit_views
from tests.support.client import PlainClient
from tests.support.clock import Clock
from tests.support.databases import PostgresDatabases, SQLiteDatabases
from tests.support.pages import ROOT, blocks

PATH = ROOT / "docs" / "audit.md"
PAGE = PATH.read_text()

# The service's login to Postgres. Roles belong to the whole server, so each run of the tests has its own.
LOGIN = "billing_service"
OWN_LOGIN = f"{LOGIN}_test_{os.getpid()}"

PLANNER = "agent:planner:main"
MONITOR = "agent:monitor:main"
# The key is derived from the spawn's idempotency key.
DRAFT = "agent:planner:subagent:28956374-b580-538a-9c85-c5543c0a8921"
CHAPTER = "agent:writer:subagent:1f070055-b90a-56fc-a37d-10b76e3f67b8"
PRICES_A = "agent:researcher:subagent:5d3cd809-1764-5297-a212-84619116a1f4"
PRICES_B = "agent:researcher:subagent:5f4d2a3a-6d89-5013-9fb4-0276f99998d0"
CURRENCY = "agent:researcher:subagent:4862df09-a848-5f21-9574-3920941adcad"
REPORT = "agent:writer:subagent:ee944562-1be5-5d9c-a089-ab5135726cac"
NIGHTLY = "agent:timer:cron:01630e64-eb70-556e-ab91-c098f21e569e"
WEEKLY = "agent:timer:cron:39863785-b01a-59ab-bd60-2df1214bb481"
LOOP_1 = "agent:loop:subagent:1"
LOOP_2 = "agent:loop:subagent:2"
ORPHAN = "agent:orphan:subagent:1"
GHOST = "agent:ghost:main"


class Like:
    """Equal to every value that fits, for values that can't be known in advance."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str, fits: Callable[[object], bool]) -> None:
        self._name = name
        self._fits = fits

    def __eq__(self, other: object) -> bool:
        return self._fits(other)

    def __repr__(self) -> str:
        return self._name


def is_of_today(value: object) -> bool:
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value):
        return False
    return abs(datetime.fromisoformat(value) - datetime.now(UTC)) < timedelta(days=1)


# A time by the database's own clock, which a test can't stop.
LOGGED = Like("LOGGED", is_of_today)
# Seconds since 2023, which keep passing.
RUNNING = Like("RUNNING", lambda value: isinstance(value, int) and value > 365 * 24 * 60 * 60)
# A digest of events with such times.
DIGEST = Like("DIGEST", lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None)
# How the log names a plain client: the database user on Postgres, nobody on SQLite.
BY_HAND = object()

EXPECTED: dict[str, list[tuple[object, ...]]] = {
    "How did sessions end, by day and agent?": [
        ("2023-11-06", "planner", "active", 1),
        ("2023-11-06", "researcher", "completed", 2),
        ("2023-11-06", "writer", "stopped", 1),
        ("2023-11-07", "researcher", "error", 1),
        ("2023-11-07", "timer", "error", 1),
        ("2023-11-07", "timer", "timeout", 1),
        ("2023-11-07", "writer", "active", 1),
        ("2023-11-08", "loop", "active", 2),
        ("2023-11-08", "orphan", "active", 1),
    ],
    "How often do an agent's sessions fail?": [
        ("timer", 2, 2, 100),
        ("researcher", 3, 1, 33),
        ("writer", 1, 0, 0),
    ],
    "Which sessions ended in error, and what was said last?": [
        (WEEKLY, "2023-11-07T13:00:00.000Z", "disk full", None, None, None),
        (PRICES_B, "2023-11-07T10:10:00.000Z", "supplier was closed", 5, "tool", "HTTP 502"),
        (PRICES_B, "2023-11-07T10:10:00.000Z", "supplier was closed", 6, "tool", "HTTP 503"),
        (PRICES_B, "2023-11-07T10:10:00.000Z", "supplier was closed", 7, "assistant", "The site of B is down."),
    ],
    "Who ended each session?": [
        (LOGGED, DRAFT, "completed", "superseded", "planner-service"),
        (LOGGED, CHAPTER, "stopped", "not needed", "operator"),
        (LOGGED, CURRENCY, "completed", None, "planner-service"),
        (LOGGED, PRICES_A, "completed", "prices found", "planner-service"),
        (LOGGED, PRICES_B, "error", "site is down", "planner-service"),
        (LOGGED, REPORT, "completed", "written", "planner-service"),
        (LOGGED, NIGHTLY, "timeout", "no answer", "planner-service"),
        (LOGGED, WEEKLY, "error", "disk full", "planner-service"),
    ],
    "Which sessions were reopened?": [(LOGGED, REPORT, "completed", "operator")],
    "Was the reason of an end rewritten later?": [
        (LOGGED, PRICES_B, "error", "site is down", "supplier was closed", BY_HAND),
    ],
    "What ran for more than 30 minutes?": [
        (PLANNER, "active", "2023-11-06T08:00:00.000Z", None, RUNNING),
        (REPORT, "active", "2023-11-07T10:20:00.000Z", None, RUNNING),
        (LOOP_1, "active", "2023-11-08T00:00:00.000Z", None, RUNNING),
        (LOOP_2, "active", "2023-11-08T00:00:00.000Z", None, RUNNING),
        (ORPHAN, "active", "2023-11-08T01:00:00.000Z", None, RUNNING),
        (PRICES_A, "completed", "2023-11-06T09:01:00.000Z", "2023-11-06T09:41:00.000Z", 2400),
    ],
    "Which active sessions have been idle for more than 15 minutes?": [
        (PLANNER, "2023-11-06T09:00:00.000Z", RUNNING),
        (REPORT, "2023-11-07T11:01:00.000Z", RUNNING),
        (LOOP_1, "2023-11-08T00:00:00.000Z", RUNNING),
        (LOOP_2, "2023-11-08T00:00:00.000Z", RUNNING),
        (ORPHAN, "2023-11-08T01:00:00.000Z", RUNNING),
    ],
    "What was running at a given moment?": [
        (PLANNER, "2023-11-06T08:00:00.000Z", None),
        (PRICES_A, "2023-11-06T09:01:00.000Z", "2023-11-06T09:41:00.000Z"),
        (CURRENCY, "2023-11-06T09:05:00.000Z", "2023-11-06T09:06:00.000Z"),
    ],
    "How long do an agent's sessions run?": [
        ("researcher", 3, 1020, 2400),
        ("timer", 2, 1500, 1800),
        ("writer", 1, 540, 540),
    ],
    "How much was said each day?": [
        ("2023-11-06", 8, 3, 3, 3),
        ("2023-11-07", 5, 1, 2, 2),
        ("2100-01-01", 1, 1, 0, 1),
    ],
    "What does the tree of a session look like?": [
        (0, PLANNER, "active", None),
        (1, PRICES_A, "completed", "Find the prices of A"),
        (2, CURRENCY, "completed", "Convert to euros"),
        (1, PRICES_B, "error", "Find the prices of B"),
        (1, REPORT, "active", "Write the report"),
    ],
    "What is below one session?": [(1, PRICES_A), (2, CURRENCY), (1, PRICES_B), (1, REPORT)],
    "Which agent delegates to which, and how often?": [
        ("loop", "loop", 2, 0),
        ("planner", "researcher", 2, 1),
        ("(gone)", "orphan", 1, 0),
        ("(gone)", "writer", 1, 0),
        ("planner", "writer", 1, 0),
        ("researcher", "researcher", 1, 0),
    ],
    "Which sessions have lost their parent, and who deleted it?": [
        (CHAPTER, DRAFT, LOGGED, "retention"),
        (ORPHAN, GHOST, None, None),
    ],
    "Is somebody its own ancestor?": [(LOOP_1, LOOP_2), (LOOP_2, LOOP_1)],
    "What happened in a session, in order?": [
        (LOGGED, None, "created", "planner-service", "active"),
        (LOGGED, None, "label_assigned", "planner-service", "prices"),
        ("2023-11-06T09:02:00.000Z", 1, "user", None, "The prices of A, please."),
        ("2023-11-06T09:02:00.000Z", 2, "tool", "search", "a.example"),
        ("2023-11-06T09:02:00.000Z", 3, "tool", "fetch", "12 USD"),
        ("2023-11-06T09:02:00.000Z", 4, "tool", "search", "exchange rates"),
        ("2023-11-06T09:02:00.000Z", 5, "assistant", None, "The PRICE is 11 €."),
        (LOGGED, None, "status_changed", "planner-service", "completed: prices found"),
    ],
    "Which messages does a session no longer retain?": [
        (1, "user", None, "The prices of A, please.", "2023-11-06T09:02:00.000Z", LOGGED),
        (2, "tool", "search", "a.example", "2023-11-06T09:02:00.000Z", LOGGED),
    ],
    "Who had a label, and when?": [
        (PRICES_A, LOGGED, LOGGED, "planner-service"),
        (PRICES_B, LOGGED, LOGGED, "planner-service"),
        (CURRENCY, LOGGED, None, BY_HAND),
    ],
    "Which sessions belong to a ticket?": [(PRICES_A, "completed", "Find the prices of A")],
    "How many messages were trimmed, and from where?": [
        (PRICES_B, 7, 3, 0, 3),
        (PRICES_A, 5, 2, 2, 0),
    ],
    "Where are messages missing that the cap does not explain?": [(REPORT, 2, 100, 1)],
    "Which tools were used, and how often?": [("search", 4, 2), ("fetch", 1, 1)],
    "Who mentioned something?": [
        (PRICES_A, 1, "archived", "user", "The prices of A, please."),
        (PRICES_A, 5, "live", "assistant", "The PRICE is 11 €."),
    ],
    "Which sessions are the largest?": [
        (PRICES_A, 5, 71),  # 24 + 9 + 6 + 14 + 18
        (PRICES_B, 4, 58),  # 20 + 8 + 8 + 22
        (PLANNER, 2, 47),  # 26 + 21
    ],
    "Which sessions were never used?": [
        (CHAPTER, "Draft chapter 1", "stopped", "2023-11-06T08:01:00.000Z"),
        (NIGHTLY, "Tidy up", "timeout", "2023-11-07T12:00:00.000Z"),
        (WEEKLY, "Rotate the logs", "error", "2023-11-07T12:40:00.000Z"),
        (LOOP_1, None, "active", "2023-11-08T00:00:00.000Z"),
        (LOOP_2, None, "active", "2023-11-08T00:00:00.000Z"),
        (ORPHAN, None, "active", "2023-11-08T01:00:00.000Z"),
    ],
    "What was deleted or pruned, when and by whom?": [(LOGGED, "retention", DRAFT, "completed", "superseded", 0)],
    "What was changed past the service?": [
        (LOGGED, BY_HAND, BY_HAND, "label_removed", PRICES_B, "prices"),
        (LOGGED, BY_HAND, BY_HAND, "end_changed", PRICES_B, "supplier was closed"),
        (LOGGED, BY_HAND, BY_HAND, "label_assigned", CURRENCY, "prices"),
        (LOGGED, BY_HAND, BY_HAND, "messages_removed", REPORT, None),
        (LOGGED, BY_HAND, BY_HAND, "created", LOOP_1, "active"),
        (LOGGED, BY_HAND, BY_HAND, "created", LOOP_2, "active"),
        (LOGGED, BY_HAND, BY_HAND, "created", ORPHAN, "active"),
    ],
    "How far is the log sealed?": [("2023-11-08T06:00:00.000Z", "notary", 28, DIGEST, 2)],
    "Which messages were redacted or removed, by whom, and why?": [
        (LOGGED, BY_HAND, BY_HAND, "messages_removed", REPORT, 1, 1, 1, None),
    ],
    "When was the log's retention changed, and by whom?": [],
    "Is this transcript what was said?": [(1, 1, 0, 1, 5, 5)],
    "Which sessions have unsealed messages?": [(MONITOR, 1, 1, 1)],
}

COLUMNS = {
    "audit_sessions": "session_key agent_id kind status end_reason label owns_label task run_id parent_key"
    " forked_at_seq created_at finished_at last_activity_at created_ms finished_ms last_activity_ms"
    " runtime_seconds idle_seconds message_count retained_count trimmed_count removed_count archived_count message_cap"
    " archive_trimmed metadata",
    "audit_messages": "stored session_key seq role tool_name content metadata idempotency_key redacted sent_at"
    " timestamp_ms archived_at sealed",
    "audit_events": "id at at_ms actor db_user event session_key agent_id kind from_status to_status reason label"
    " from_session_key parent_key message_count first_seq last_seq sealed",
    "audit_lineage": "session_key parent_key root_key depth path",
    "audit_seals": "id sealed_at sealed_ms actor through_event_id event_count digest previous_digest events_digest"
    " transcript_count transcripts_digest",
    "audit_transcripts": "session_key number seal_id sealed_at after_seq first_seq last_seq message_count digest"
    " previous_digest messages_digest",
}

IDENTITY = {
    "audit_sessions": ["session_key"],
    "audit_messages": ["session_key", "seq"],
    "audit_events": ["id"],
    "audit_lineage": ["session_key"],
    "audit_seals": ["id"],
    "audit_transcripts": ["session_key", "number"],
}

# In these columns, two databases have the same types but different values.
CLOCKS_AND_LOTS = {"run_id", "idle_seconds", "archived_at", "at", "at_ms", "digest", "previous_digest", "events_digest"}


def questions() -> dict[str, dict[str, list[str]]]:
    """The SQL below each third-level heading, by the info string of the fence."""
    sections = re.split(r"^#{1,3} ", PAGE, flags=re.MULTILINE)
    found = {}
    for section in sections:
        heading, _, text = section.partition("\n")
        blocks: dict[str, list[str]] = {}
        for info, sql in re.findall(r"^```(sql[^\n]*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
            blocks.setdefault(info, []).append(sql)
        if blocks:
            found[heading] = blocks
    return found


QUESTIONS = questions()


def statement(heading: str, backend: str) -> str:
    """The question's one statement for this database."""
    blocks = QUESTIONS[heading]
    (sql,) = blocks["sql"] if "sql" in blocks else blocks[f"sql {backend}"]
    return sql.replace(LOGIN, OWN_LOGIN)


def columns_of(client: PlainClient, view: str) -> list[str]:
    """The names of the view's columns, as the database reports them."""
    if client.backend == "sqlite":
        return [name for (name,) in client("SELECT name FROM pragma_table_info(?) ORDER BY cid", view)]
    return [
        name
        for (name,) in client(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_schema = current_schema() AND table_name = ? ORDER BY ordinal_position",
            view,
        )
    ]


def comparable(client: PlainClient, view: str) -> list[dict[str, object]]:
    """The view's rows in a fixed order, with each value's type, and the values where databases must agree."""
    columns = COLUMNS[view].split()
    rows = [dict(zip(columns, row, strict=True)) for row in client(f"SELECT {', '.join(columns)} FROM {view}")]
    rows.sort(key=lambda row: [row[column] for column in IDENTITY[view]])
    own = CLOCKS_AND_LOTS
    return [
        {
            column: (type(value), None if column in own or still_runs(row, column) else value)
            for column, value in row.items()
            if not (column == "db_user" or (column == "actor" and value in {None, row.get("db_user")}))
        }
        for row in rows
    ]


def still_runs(row: dict[str, object], column: str) -> bool:
    return column == "runtime_seconds" and row["finished_ms"] is None


def names(cell: str) -> list[str]:
    """The names in a cell of a table."""
    return re.findall(r"`(\w+)`", cell)


def ms(text: str) -> int:
    """A time in UTC as milliseconds."""
    return int(datetime.fromisoformat(f"{text}+00:00").timestamp()) * 1000


def first_day(service: SessionManager, operator: SessionManager, clock: Clock) -> None:
    clock.now_ms = ms("2023-11-06T08:00:00")
    service.get_or_create_main("planner")
    service.spawn_subagent("planner", "Draft the report", parent_key=PLANNER, idempotency_key="draft")
    clock.now_ms = ms("2023-11-06T08:01:00")
    service.spawn_subagent("writer", "Draft chapter 1", parent_key=DRAFT, idempotency_key="chapter")
    clock.now_ms = ms("2023-11-06T08:05:00")
    service.complete_session(DRAFT, "superseded")
    clock.now_ms = ms("2023-11-06T08:10:00")
    operator.stop_session(CHAPTER, "not needed")

    clock.now_ms = ms("2023-11-06T09:00:00")
    service.send_message(PLANNER, "Compare suppliers A and B.")
    service.add_message(PLANNER, "assistant", "I ask the researcher.")
    clock.now_ms = ms("2023-11-06T09:01:00")
    service.spawn_subagent(
        "researcher",
        "Find the prices of A",
        "prices",
        PLANNER,
        metadata={"ticket": "T-17", "größe": 1.50},
        message_cap=3,
        archive_trimmed=True,
        idempotency_key="prices-a",
    )
    clock.now_ms = ms("2023-11-06T09:02:00")
    service.add_messages(
        PRICES_A,
        [
            NewMessage("user", "The prices of A, please.", idempotency_key="request"),
            NewMessage("tool", "a.example", "search", {"call": 1}),
            NewMessage("tool", "12 USD", "fetch"),
            NewMessage("tool", "exchange rates", "search", {"call": 3}),
            NewMessage("assistant", "The PRICE is 11 €."),
        ],
    )
    clock.now_ms = ms("2023-11-06T09:05:00")
    service.spawn_subagent("researcher", "Convert to euros", parent_key=PRICES_A, idempotency_key="currency")
    service.send_message(CURRENCY, "12 USD in EUR?")
    clock.now_ms = ms("2023-11-06T09:06:00")
    service.complete_session(CURRENCY)
    clock.now_ms = ms("2023-11-06T09:41:00")
    service.complete_session(PRICES_A, "prices found")
    with pytest.raises(SessionNotActive):
        operator.stop_session(PRICES_A, "too slow")


def second_day(service: SessionManager, operator: SessionManager, clock: Clock) -> None:
    clock.now_ms = ms("2023-11-07T10:00:00")
    service.spawn_subagent(
        "researcher", "Find the prices of B", "prices", PLANNER, message_cap=4, idempotency_key="prices-b"
    )
    service.send_message(PRICES_B, "The prices of B, please.")
    service.add_message(PRICES_B, "tool", "HTTP 500", tool_name="search")
    service.add_message(PRICES_B, "tool", "HTTP 501", tool_name="fetch")
    service.add_message(PRICES_B, "assistant", "I ask the site of B.")
    service.add_message(PRICES_B, "tool", "HTTP 502", tool_name="search")
    service.add_message(PRICES_B, "tool", "HTTP 503", tool_name="search")
    service.add_message(PRICES_B, "assistant", "The site of B is down.")
    clock.now_ms = ms("2023-11-07T10:10:00")
    service.error_session(PRICES_B, "site is down")
    clock.now_ms = ms("2023-11-07T10:20:00")
    service.spawn_subagent("writer", "Write the report", "report", PLANNER, idempotency_key="report")
    service.send_message(REPORT, "Use the best price.")
    clock.now_ms = ms("2023-11-07T10:40:00")
    service.complete_session(REPORT, "written")
    clock.now_ms = ms("2023-11-07T11:00:00")
    operator.reopen_session(REPORT)
    clock.now_ms = ms("2023-11-07T11:01:00")
    service.send_message(REPORT, "Add a summary.")
    clock.now_ms = ms("2023-11-07T12:00:00")
    service.spawn_cron("timer", "Tidy up", idempotency_key="nightly")
    clock.now_ms = ms("2023-11-07T12:30:00")
    service.timeout_session(NIGHTLY, "no answer")
    clock.now_ms = ms("2023-11-07T12:40:00")
    service.spawn_cron("timer", "Rotate the logs", idempotency_key="weekly")
    clock.now_ms = ms("2023-11-07T13:00:00")
    service.error_session(WEEKLY, "disk full")


def by_hand(plain: PlainClient) -> None:
    plain("DELETE FROM labels WHERE label = 'prices'")
    plain("UPDATE sessions SET end_reason = 'supplier was closed' WHERE key = ?", PRICES_B)
    plain("INSERT INTO labels (label, session_key, assigned_ms) VALUES ('prices', ?, 1)", CURRENCY)
    plain("DELETE FROM messages WHERE session_key = ? AND seq = 1", REPORT)
    midnight_ms, one_ms = ms("2023-11-08T00:00:00"), ms("2023-11-08T01:00:00")
    for key, agent_id, parent_key, at_ms in (
        (LOOP_1, "loop", LOOP_2, midnight_ms),
        (LOOP_2, "loop", LOOP_1, midnight_ms),
        (ORPHAN, "orphan", GHOST, one_ms),
    ):
        plain(
            "INSERT INTO sessions (key, agent_id, kind, status, run_id, parent_key, created_ms, last_activity_ms)"
            " VALUES (?, ?, 'subagent', 'active', ?, ?, ?, ?)",
            *(key, agent_id, key, parent_key, at_ms, at_ms),
        )


def third_day(service: SessionManager, retention: SessionManager, clock: Clock) -> None:
    clock.now_ms = ms("2023-11-08T12:00:00")
    retention.prune(before=datetime(2023, 11, 6, 8, 6, tzinfo=UTC))
    # Sessions made in the future are neither idle nor old.
    clock.now_ms = ms("2100-01-01T00:00:00")
    service.send_message(service.get_or_create_main("monitor").key, "Watch.")


@contextmanager
def logged_in(url: str) -> Iterator[Callable[[str], SessionManager]]:
    """A function that opens a manager for an actor, logged in to Postgres like the service."""
    if sa.make_url(url).get_backend_name() == "sqlite":
        yield lambda actor: SessionManager(url, actor=actor)
        return
    owner = PlainClient(url)
    owner(f"CREATE ROLE {OWN_LOGIN} SUPERUSER")
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))

    @sa.event.listens_for(engine, "connect")
    def log_in(connection: Any, _record: object) -> None:
        connection.execute(f"SET SESSION AUTHORIZATION {OWN_LOGIN}")
        connection.commit()

    try:
        yield lambda actor: SessionManager(engine, actor=actor)
    finally:
        engine.dispose()
        owner(f"DROP ROLE {OWN_LOGIN}")
        owner.close()


@contextmanager
def seeded(databases: SQLiteDatabases | PostgresDatabases) -> Iterator[PlainClient]:
    """A plain client of a database of this kind that holds the data."""
    url = databases.create(at_head=True)
    plain = PlainClient(url)
    with pytest.MonkeyPatch.context() as patch, logged_in(url) as open_manager, ExitStack() as stack:
        clock = Clock(0)
        service, operator, retention, notary = (
            stack.enter_context(open_manager(actor)) for actor in ("planner-service", "operator", "retention", "notary")
        )
        patch.setattr("time.time_ns", clock.time_ns)
        first_day(service, operator, clock)
        notary.seal_log()
        second_day(service, operator, clock)
        by_hand(plain)
        clock.now_ms = ms("2023-11-08T06:00:00")
        notary.seal_log()
        third_day(service, retention, clock)
    yield plain
    plain.close()
    databases.drop(url)


@pytest.fixture(scope="module")
def auditors(
    sqlite_databases: SQLiteDatabases, postgres_databases: PostgresDatabases
) -> Iterator[dict[str, PlainClient]]:
    """A client of each database, by the database's name."""
    with seeded(sqlite_databases) as on_sqlite, seeded(postgres_databases) as on_postgres:
        yield {"sqlite": on_sqlite, "postgresql": on_postgres}


@pytest.fixture
def auditor(auditors: dict[str, PlainClient], backend: str) -> PlainClient:
    """A client of one of the two."""
    return auditors[backend]


@pytest.mark.parametrize("heading", EXPECTED)
def test_question_has_the_answer_that_was_worked_out_by_hand(auditor: PlainClient, heading: str) -> None:
    user = auditor("SELECT session_user")[0][0] if auditor.backend == "postgresql" else None

    answer = auditor(statement(heading, auditor.backend))

    assert answer == [tuple(user if cell is BY_HAND else cell for cell in row) for row in EXPECTED[heading]]


def test_question_over_all_schemas_is_answered_for_each(postgres_databases: PostgresDatabases) -> None:
    url = postgres_databases.create(at_head=False)
    for name in ("team_b", "team_a"):
        with SessionManager(url, schema=name) as manager:
            manager.send_message(manager.get_or_create_main("planner").key, "Hello.")
            if name == "team_b":
                manager.complete_session(manager.spawn_cron("planner", "Tidy up"))
    make_audit_views(url)
    (sql,) = blocks(PATH, "postgresql")

    with closing(PlainClient(url)) as client:
        answer = client(sql)
    postgres_databases.drop(url)

    assert answer == [("team_a", "active", 1, 1), ("team_b", "active", 1, 1), ("team_b", "completed", 1, 0)]


def test_every_question_has_an_answer_and_every_answer_a_question() -> None:
    assert set(QUESTIONS) == set(EXPECTED)
    assert len(QUESTIONS) >= 20


def test_question_has_one_statement_for_each_database() -> None:
    kinds = {heading: {info: len(blocks) for info, blocks in found.items()} for heading, found in QUESTIONS.items()}
    by_database = {"sql sqlite": 1, "sql postgresql": 1}

    assert {heading: kind for heading, kind in kinds.items() if kind not in ({"sql": 1}, by_database)} == {}


def test_questions_need_nothing_but_the_views() -> None:
    for heading in QUESTIONS:
        for backend in ("sqlite", "postgresql"):
            sql = statement(heading, backend)
            read = set(re.findall(r"\b(?:FROM|JOIN)\s+(\w+)", sql))
            of_its_own = set(re.findall(r"(\w+)(?:\([^()]*\))? AS \(\s*SELECT", sql))

            assert read - of_its_own <= set(COLUMNS), heading


def test_query_for_descendants_stops_at_a_cycle(auditor: PlainClient) -> None:
    sql = statement("What is below one session?", auditor.backend).replace(PLANNER, LOOP_1)

    # The limit stops a statement that would never end.
    assert auditor(sql.replace("ORDER BY path", "LIMIT 9")) == [(1, LOOP_2)]


def test_label_has_one_owner_at_a_time(auditor: PlainClient) -> None:
    first, second, third = auditor(statement("Who had a label, and when?", auditor.backend))

    assert first[1] <= first[2] == second[1] <= second[2] <= third[1]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_change_that_bypasses_the_service_is_found_despite_a_false_name_or_a_stolen_login(
    url: str, plain: PlainClient
) -> None:
    with logged_in(url) as open_manager:
        with open_manager("planner-service") as service:
            key = service.spawn_subagent("planner", "Plan", "plan")
        plain("SET sessions_db.actor = 'planner-service'")
        plain("DELETE FROM labels")
        plain("RESET sessions_db.actor")
        plain(f"SET SESSION AUTHORIZATION {OWN_LOGIN}")
        plain("DELETE FROM sessions")
        plain("RESET SESSION AUTHORIZATION")

    (owner,) = plain("SELECT session_user")[0]
    assert plain(statement("What was changed past the service?", plain.backend)) == [
        (LOGGED, "planner-service", owner, "label_removed", key, "plan"),
        (LOGGED, OWN_LOGIN, OWN_LOGIN, "deleted", key, "active"),
    ]


def test_timeline_of_a_session_that_was_deleted_is_what_was_logged(auditor: PlainClient) -> None:
    sql = statement("What happened in a session, in order?", auditor.backend).replace(PRICES_A, DRAFT)

    assert [(row[2], row[4]) for row in auditor(sql)] == [
        ("created", "active"),
        ("status_changed", "completed: superseded"),
        ("deleted", "completed"),
    ]


def test_timeline_of_a_main_session_that_was_recreated_is_its_last_life(
    manager: SessionManager, plain: PlainClient
) -> None:
    key = manager.get_or_create_main("planner").key
    manager.send_message(key, "Of another life.")
    manager.delete_session(key)
    manager.get_or_create_main("planner")
    manager.send_message(key, "Hello again.")
    manager.complete_session(key)

    timeline = plain(statement("What happened in a session, in order?", plain.backend).replace(PRICES_A, key))

    assert [(row[2], row[4]) for row in timeline] == [
        ("created", "active"),
        ("user", "Hello again."),
        ("status_changed", "completed"),
    ]


def test_timeline_of_a_session_whose_first_events_were_deleted_begins_with_what_is_left(
    manager: SessionManager, plain: PlainClient
) -> None:
    key = manager.get_or_create_main("planner").key
    manager.send_message(key, "Hello.")
    manager.complete_session(key)
    plain("BEGIN")
    off = {"sqlite": "DROP TRIGGER session_events_delete", "postgresql": "SET LOCAL session_replication_role = replica"}
    plain(off[plain.backend])
    plain("DELETE FROM session_events WHERE event = 'created'")
    plain("COMMIT")

    timeline = plain(statement("What happened in a session, in order?", plain.backend).replace(PRICES_A, key))

    assert [(row[2], row[4]) for row in timeline] == [("user", "Hello."), ("status_changed", "completed")]


@pytest.mark.parametrize("view", COLUMNS)
def test_view_has_exactly_these_columns_and_all_are_documented(auditor: PlainClient, view: str) -> None:
    columns = COLUMNS[view].split()
    table = PAGE.partition(f"`{view}` ")[2].partition("\n\n`")[0]
    documented = [name for line in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE) for name in names(line)]

    assert columns_of(auditor, view) == columns
    assert sorted(documented) == sorted(columns)


def test_every_view_is_documented() -> None:
    assert set(COLUMNS) == set(schema.VIEWS["sqlite"]) == set(schema.VIEWS["postgresql"])


@pytest.mark.parametrize("view", COLUMNS)
def test_views_have_the_same_values_of_the_same_types_on_both_databases(
    auditors: dict[str, PlainClient], view: str
) -> None:
    on_sqlite, on_postgres = (comparable(client, view) for client in auditors.values())

    assert len(on_sqlite) >= 1
    assert on_sqlite == on_postgres


def test_text_of_a_time_matches_its_milliseconds(plain: PlainClient) -> None:
    times = {
        -62135596800000: "0001-01-01T00:00:00.000Z",
        -8588111643269: "1697-11-07T13:25:56.731Z",
        -1: "1969-12-31T23:59:59.999Z",
        0: "1970-01-01T00:00:00.000Z",
        1699423200001: "2023-11-08T06:00:00.001Z",
        116893484972107: "5674-03-16T20:29:32.107Z",
        217065770587449: "8848-07-16T07:23:07.449Z",
        253402300799999: "9999-12-31T23:59:59.999Z",
        253402300800000: None,
    }
    for at_ms in times:
        plain(
            "INSERT INTO sessions (key, agent_id, kind, status, run_id, created_ms, last_activity_ms)"
            " VALUES (?, 'planner', 'cron', 'active', ?, ?, ?)",
            *(f"agent:planner:cron:{at_ms}", str(at_ms), at_ms, at_ms),
        )

    assert dict(plain("SELECT created_ms, created_at FROM audit_sessions")) == times
