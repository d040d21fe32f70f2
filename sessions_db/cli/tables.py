"""Sessions, events and what else is listed, as tables."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sessions_db.cli.terminal import LEAST_WIDTH, is_limited, line, put, utc
from sessions_db.enums import SessionStatus
from sessions_db.escaping import printable
from sessions_db.models import Archive, SearchHit, Session, SessionEvent
from sessions_db.wording import counted

_STYLES = {
    SessionStatus.ACTIVE: "green",
    SessionStatus.COMPLETED: "cyan",
    SessionStatus.ERROR: "red",
    SessionStatus.TIMEOUT: "yellow",
    SessionStatus.STOPPED: "magenta",
}

_STATUS_WIDTH = 17
_EVENT_WIDTH = 32
_ARCHIVE_WIDTH = 30

# What a line of a list needs besides the key.
_BESIDE_KEY = 85


def print_sessions(console: Console, sessions: Sequence[Session]) -> None:
    """Print a line for each session, or as many as the width needs: its key is never cut, its task is."""
    longest = _longest(session.key for session in sessions)
    if console.width >= longest + _BESIDE_KEY:
        _print_sessions_in_lines(console, sessions)
    elif console.width >= longest + _STATUS_WIDTH:
        _print_sessions_in_pairs(console, sessions)
    else:
        for session in sessions:
            console.print(Text(printable(session.key)), soft_wrap=True)
            messages = counted(session.message_count, "message")
            facts = f", {messages}, {utc(session.created_ms)} UTC"
            console.print(Text.assemble("  ", _status(session), (facts, "dim")), soft_wrap=True)
            if about := _about(session):
                console.print(Text.assemble("  ", about), no_wrap=True, overflow="ellipsis")


def _print_sessions_in_lines(console: Console, sessions: Sequence[Session]) -> None:
    table = _table()
    for title in ("Session", "Status", "Messages", "Created (UTC)"):
        table.add_column(title, no_wrap=True, justify="right" if title == "Messages" else "left")
    table.add_column("Label, task")
    for session in sessions:
        key, count, about = Text(printable(session.key)), f"{session.message_count:,}", _about(session)
        about.no_wrap, about.overflow = True, "ellipsis"
        table.add_row(key, _status(session), count, Text(utc(session.created_ms), "dim"), about)
    put(console, table)


def _print_sessions_in_pairs(console: Console, sessions: Sequence[Session]) -> None:
    table = _table()
    table.add_column("Session, created (UTC), label, task")
    table.add_column("Status", no_wrap=True)
    for session in sessions:
        about = Text.assemble((f"{utc(session.created_ms)}  ", "dim"), _about(session))
        about.no_wrap, about.overflow = True, "ellipsis"
        table.add_row(
            Group(Text(printable(session.key), no_wrap=True), about),
            Group(_status(session), Text(counted(session.message_count, "message"), "dim")),
        )
    put(console, table)


def _status(session: Session) -> Text:
    return Text(session.status, _STYLES[session.status])


def _about(session: Session) -> Text:
    label = "" if session.label is None else f"[{session.label}] "
    about = line(f"{label}{session.task or ''}")
    about.stylize("dim")
    return about


def print_events(console: Console, events: Sequence[SessionEvent]) -> None:
    """Print what happened to which session, when and by whom: a line for each event, or two where they are too wide."""
    table = _table()
    table.add_column("#", justify="right", no_wrap=True)
    keys = [key for event in events for key in (event.session_key or "-", f"from {event.from_session_key or ''}")]
    in_lines = console.width >= _longest(keys) + _BESIDE_KEY
    for title in ("At (UTC)", "By", "Session") if in_lines else ("At (UTC), by",):
        table.add_column(title, no_wrap=True)
    table.add_column("What happened" if in_lines else "What happened, to which session", overflow="fold")
    for event in events:
        at, actor = Text(utc(event.at_ms)), Text(printable(event.actor or "-"), "dim")
        key, what = Text(printable(event.session_key or "-")), _what_happened(event)
        cells = (at, actor, key, what) if in_lines else (Group(at, actor), Group(key, what))
        table.add_row(str(event.id), *cells)
    _print_wide(console, table, keys, _EVENT_WIDTH)


def _what_happened(event: SessionEvent) -> Text:
    what = [event.event.value.replace("_", " ")]
    if event.label is not None:
        what.append(f"[{event.label}]")
    if event.to_status is not None:
        what.append(event.to_status if event.from_status is None else f"{event.from_status} -> {event.to_status}")
    if event.from_session_key is not None:
        what.append(f"from {event.from_session_key}")
    if event.reason is not None:
        what.append(f"({event.reason})")
    return line(" ".join(what))


def print_tree(console: Console, sessions: Iterable[tuple[Session, int, Sequence[bool]]]) -> None:
    """Print the sessions of a tree, each given with its depth and, for each level, whether it is the last there.

    A session has two lines: its key in full and its status; its label and task, shortened.
    """
    for session, depth, lasts in sessions:
        above = "".join("    " if last else "|   " for last in lasts[:-1])
        own, below = ("", "") if depth == 0 else ("`-- ", "    ") if lasts[-1] else ("|-- ", "|   ")
        key = printable(session.key)
        console.print(Text.assemble((above + own, "dim"), key, "  ", _status(session)), soft_wrap=True)
        if about := _about(session):
            if is_limited(console):
                about.truncate(max(LEAST_WIDTH, console.width - len(above + below)), overflow="ellipsis")
            console.print(Text.assemble((above + below, "dim"), (about.plain, "dim")), soft_wrap=True)


def print_hits(console: Console, hits: Iterable[SearchHit]) -> None:
    """Print two lines or more for each hit: where it is and from when; what surrounds it."""
    for hit in hits:
        place = hit.field if hit.seq is None else f"#{hit.seq}"
        where = Text.assemble((printable(hit.session_key), "bold"), f"  {place}  ", (utc(hit.at_ms), "dim"))
        console.print(where, soft_wrap=True)
        snippet = line(hit.snippet)
        snippet.overflow = "fold"
        put(console, snippet)


def print_archives(console: Console, archives: Sequence[Archive]) -> None:
    """Print how many messages of each session are archived."""
    table = _table()
    table.add_column("Session", no_wrap=True)
    table.add_column("Archived", justify="right", no_wrap=True)
    table.add_column("Numbers", no_wrap=True)
    for archive in archives:
        numbers = f"{archive.first_seq:,} to {archive.last_seq:,}"
        table.add_row(Text(printable(archive.session_key)), f"{archive.count:,}", numbers)
    _print_wide(console, table, (archive.session_key for archive in archives), _ARCHIVE_WIDTH)


def print_session(console: Console, session: Session) -> None:
    """Print every field of the session but its messages, in full."""
    retained = len(session.messages)
    metadata = None if session.metadata is None else json.dumps(session.metadata, ensure_ascii=False)
    fields: dict[str, str | None] = {
        "Key": session.key,
        "Agent": session.agent_id,
        "Kind": session.kind,
        "Status": session.status,
        "End reason": session.end_reason,
        "Label": session.label,
        "Task": session.task,
        "Run ID": session.run_id,
        "Parent": session.parent_key,
        "Created": f"{utc(session.created_ms)} UTC",
        "Finished": None if session.finished_ms is None else f"{utc(session.finished_ms)} UTC",
        "Last activity": f"{utc(session.last_activity_ms)} UTC",
        "Run time": f"{session.runtime_secs():,} s",
        "Messages": f"{session.message_count:,} in all, the newest {retained:,} retained",
        "Metadata": metadata,
    }
    print_fields(console, fields)


def print_fields(console: Console, fields: Mapping[str, str | None]) -> None:
    """Print each field with its name. Keys are not broken, where they are wider than the terminal."""
    indent = max(map(len, fields)) + 2
    for name, value in fields.items():
        if value is None:
            shown = [Text("-", "dim")]
        else:
            rows = printable(value).split("\n")
            if is_limited(console):
                width = max(LEAST_WIDTH, console.width - indent)
                rows = [part for row in rows for part in _wrapped(row, width)]
            shown = [Text(row) for row in rows]
        for number, row in enumerate(shown):
            head = (f"{'' if number else name:{indent}}", "bold")
            console.print(Text.assemble(head, row), soft_wrap=True)


def _wrapped(row: str, width: int) -> list[str]:
    return textwrap.wrap(row, width, break_long_words=False, break_on_hyphens=False) or [""]


def print_rows(console: Console, names: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print the result of a query."""
    table = _table()
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        cells: list[RenderableType] = [Text("" if value is None else printable(str(value))) for value in row]
        table.add_row(*cells)
    put(console, table)


def print_heading(console: Console, title: str, call: str = "") -> None:
    """Print a line across the terminal with a title, and the call that gives what follows."""
    console.print()
    heading = Text.assemble((title, "bold"), (f"  {call}" if call else "", "dim"))
    if is_limited(console):
        console.rule(heading, align="left")
    else:
        console.print(heading)


def _table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold underline")


def _print_wide(console: Console, table: Table, keys: Iterable[str], other_columns: int) -> None:
    # Keys are meant to be copied, so a table that is too wide is better than a broken key.
    console.width = max(console.width, _longest(keys) + other_columns)
    put(console, table)


def _longest(keys: Iterable[str]) -> int:
    return max((cell_len(printable(key)) for key in keys), default=0)
