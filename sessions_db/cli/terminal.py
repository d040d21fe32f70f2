"""How sessions and messages look on a terminal, and as JSON.

Stored text is shown, never interpreted: it is not parsed as Rich markup, and control characters, which could make a
terminal lie, are written as escapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from sessions_db.enums import Role, SessionStatus
from sessions_db.escaping import UNSAFE, printable
from sessions_db.models import Archive, Message, SearchHit, Session, SessionEvent
from sessions_db.validation import JsonValue

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
_LEAST_WIDTH = 20
_SENDER_WIDTH = 24
_LINES_OF_CONTENT = 3


def one_line(text: str) -> str:
    """The text on one line, so that nothing quoted in it can pass for another message."""
    return printable(text).replace("\n", "\\n")


def to_json(value: JsonValue) -> bytes:
    r"""The value as indented JSON in UTF-8, whatever the terminal's encoding; unsafe characters are `\u` escapes."""
    return safe_json(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False).encode())


def safe_json(text: bytes) -> bytes:
    r"""The same JSON in UTF-8, with everything that a terminal would act on as a `\u` escape."""
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text.decode()).encode()


def counted(number: int, noun: str) -> str:
    """The number and what it counts: "1 session", "2,000 sessions"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def without_messages(session: Session) -> dict[str, JsonValue]:
    """The session as JSON where its messages were not read: an empty list would say that there are none."""
    return {name: value for name, value in session.to_dict().items() if name != "messages"}


def print_sessions(console: Console, sessions: Sequence[Session]) -> None:
    """Print two lines for each session: its key in full; when it was created, its label and its task."""
    table = _table()
    table.add_column("Session, created (UTC), label, task")
    table.add_column("Status", no_wrap=True)
    for session in sessions:
        label = "" if session.label is None else f"[{session.label}]"
        about = _line(f"{utc(session.created_ms)}  {label} {session.task or ''}")
        about.stylize("dim")
        about.no_wrap, about.overflow = True, "ellipsis"
        status = Text(session.status, _STYLES[session.status])
        table.add_row(
            Group(Text(printable(session.key), no_wrap=True), about),
            Group(status, Text(counted(session.message_count, "message"), "dim")),
        )
    _print_wide(console, table, (session.key for session in sessions), _STATUS_WIDTH)


def print_messages(console: Console, messages: Iterable[Message]) -> None:
    """Print the messages, each shortened to a few lines."""
    table = _table()
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("From, at (UTC)", max_width=_SENDER_WIDTH, overflow="fold")
    table.add_column("Message", ratio=1)
    longest = _LINES_OF_CONTENT * max(20, console.width - _SENDER_WIDTH - 10)
    for message in messages:
        sender = message.role.value if message.tool_name is None else f"{message.role}: {message.tool_name}"
        content = _line(message.content)
        if not message.content and message.metadata:
            content = _line(json.dumps(message.metadata, ensure_ascii=False))
            content.stylize("dim")
        content.truncate(longest, overflow="ellipsis")
        content.overflow = "fold"
        style = "bold" if message.role is Role.USER else ""
        table.add_row(
            str(message.seq), Group(Text(printable(sender), style), Text(utc(message.timestamp_ms), "dim")), content
        )
    console.print(table)


def print_events(console: Console, events: Sequence[SessionEvent]) -> None:
    """Print two lines for each event: what happened to which session, when and by whom."""
    table = _table()
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("At (UTC), by", no_wrap=True)
    table.add_column("What happened, to which session", overflow="fold")
    for event in events:
        what = [event.event.value.replace("_", " ")]
        if event.label is not None:
            what.append(f"[{event.label}]")
        if event.to_status is not None:
            what.append(event.to_status if event.from_status is None else f"{event.from_status} -> {event.to_status}")
        if event.from_session_key is not None:
            what.append(f"from {event.from_session_key}")
        if event.reason is not None:
            what.append(f"({event.reason})")
        table.add_row(
            str(event.id),
            Group(Text(utc(event.at_ms)), Text(printable(event.actor or "-"), "dim")),
            Group(Text(printable(event.session_key or "-")), _line(" ".join(what))),
        )
    keys = [key for event in events for key in (event.session_key or "-", f"from {event.from_session_key or ''}")]
    _print_wide(console, table, keys, _EVENT_WIDTH)


def print_tree(console: Console, sessions: Iterable[tuple[Session, int, Sequence[bool]]]) -> None:
    """Print the sessions of a tree, each given with its depth and, for each level, whether it is the last there.

    A session has two lines: its key in full and its status; its label and task, shortened.
    """
    for session, depth, lasts in sessions:
        above = "".join("    " if last else "|   " for last in lasts[:-1])
        own, below = ("", "") if depth == 0 else ("`-- ", "    ") if lasts[-1] else ("|-- ", "|   ")
        status = (session.status.value, _STYLES[session.status])
        console.print(Text.assemble((above + own, "dim"), printable(session.key), "  ", status), soft_wrap=True)
        label = "" if session.label is None else f"[{session.label}] "
        about = _line(f"{label}{session.task or ''}")
        if about:
            about.truncate(max(_LEAST_WIDTH, console.width - len(above + below)), overflow="ellipsis")
            console.print(Text.assemble((above + below, "dim"), (about.plain, "dim")), soft_wrap=True)


def print_hits(console: Console, hits: Iterable[SearchHit]) -> None:
    """Print two lines or more for each hit: where it is and from when; what surrounds it."""
    for hit in hits:
        place = hit.field if hit.seq is None else f"#{hit.seq}"
        where = Text.assemble((printable(hit.session_key), "bold"), f"  {place}  ", (utc(hit.at_ms), "dim"))
        console.print(where, soft_wrap=True)
        console.print(_line(hit.snippet), overflow="fold")


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
    """Print a line for each field, with its name."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(name, Text("-", "dim") if value is None else Text(printable(value)))
    console.print(table)


def print_rows(console: Console, names: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print the result of a query."""
    table = _table()
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        cells: list[RenderableType] = [Text("" if value is None else printable(str(value))) for value in row]
        table.add_row(*cells)
    console.print(table)


def print_heading(console: Console, title: str, call: str = "") -> None:
    """Print a line across the terminal with a title, and the call that gives what follows."""
    console.print()
    console.rule(Text.assemble((title, "bold"), (f"  {call}" if call else "", "dim")), align="left")


def _table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold underline")


def _print_wide(console: Console, table: Table, keys: Iterable[str], other_columns: int) -> None:
    # Keys are meant to be copied, so a table that is too wide is better than a broken key.
    longest = max((cell_len(printable(key)) for key in keys), default=0)
    console.width = max(console.width, longest + other_columns)
    console.print(table)


def _line(text: str) -> Text:
    return Text(printable(" ".join(text.split())))


def size(count: int) -> str:
    """A number of bytes, in a unit that keeps it short."""
    return decimal(count)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc(at_ms: int) -> str:
    """The time in UTC, for people."""
    try:
        at = _EPOCH + timedelta(milliseconds=at_ms)
    except OverflowError:  # SQL that bypasses the library may have stored any number
        return f"{at_ms} ms"
    return at.strftime("%Y-%m-%d %H:%M:%S")
