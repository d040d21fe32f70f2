"""The messages of a session."""

from __future__ import annotations

import json
from collections.abc import Iterable

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from sessions_db.cli.terminal import LEAST_WIDTH, is_limited, line, put, utc
from sessions_db.enums import Role
from sessions_db.escaping import printable
from sessions_db.integrations.calls import tool_calls
from sessions_db.models import Message

_SENDER_WIDTH = 24
_LINES_OF_CONTENT = 3


def print_messages(console: Console, messages: Iterable[Message]) -> None:
    """Print a table of the messages: each shortened to a few lines, except where nothing limits the width."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold underline")
    table.add_column("#", justify="right", no_wrap=True)
    limited = is_limited(console)
    if limited:
        table.add_column("From, at (UTC)", max_width=_SENDER_WIDTH, overflow="fold")
        table.add_column("Message", ratio=1)
    else:
        for title in ("From", "At (UTC)", "Message"):
            table.add_column(title, no_wrap=True)
    longest = _LINES_OF_CONTENT * max(LEAST_WIDTH, console.width - _SENDER_WIDTH - 10)
    for message in messages:
        sender, at = _sender(message), Text(utc(message.timestamp_ms), "dim")
        said = Text(" ").join(map(_flat, _parts(message)))
        if limited:
            said.truncate(longest, overflow="ellipsis")
            said.overflow = "fold"
            table.add_row(str(message.seq), Group(sender, at), said)
        else:
            table.add_row(str(message.seq), sender, at, said)
    put(console, table)


def print_message(console: Console, message: Message, *, in_full: bool) -> None:
    """Print one message: with its line breaks and an empty line at the end, or else shortened to a few lines."""
    head = Text.assemble((f"#{message.seq}  ", "dim"), _sender(message), (f"  {utc(message.timestamp_ms)}", "dim"))
    console.print(head, soft_wrap=True)
    for part in _parts(message):
        shown = part if in_full else _flat(part)
        if not in_full and is_limited(console):
            shown.truncate(_LINES_OF_CONTENT * max(LEAST_WIDTH, console.width), overflow="ellipsis")
        shown.overflow = "fold"
        put(console, shown)
    if in_full:
        console.print()


def _sender(message: Message) -> Text:
    sender = message.role.value if message.tool_name is None else f"{message.role}: {message.tool_name}"
    return Text(printable(sender), "bold" if message.role is Role.USER else "")


def _parts(message: Message) -> list[Text]:
    """What the message says, and then the calls that it asks for; or else its metadata."""
    parts = [Text(printable(message.content))] if message.content else []
    parts += [Text(printable(f"-> {call}"), "cyan") for call in tool_calls(message)]
    if not parts and message.metadata:
        parts = [Text(printable(json.dumps(message.metadata, ensure_ascii=False)), "dim")]
    return parts


def _flat(part: Text) -> Text:
    flat = line(part.plain)
    flat.style = part.style
    return flat
