"""How text looks on a terminal, in a pipe and as JSON.

Stored text is shown, never interpreted: it is not parsed as Rich markup, and control characters, which could make a
terminal lie, are written as escapes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping

from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.text import Text

from sessions_db import clock, escaping
from sessions_db.escaping import printable
from sessions_db.models import Session
from sessions_db.validation import JsonValue

LEAST_WIDTH = 20
"""How narrow what is shown becomes; a terminal that claims less, such as 0 columns, tells nothing."""

# Wider than anything that is shown.
_UNLIMITED = 2**31 - 1


class _Console(Console):
    """One that leaves it to the command what to do when the reader of its pipe has gone: Rich exits with 1."""

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled."""
        raise  # noqa: PLE0704  # Rich calls this in an `except` clause


def console() -> Console:
    """Where tables are printed: as wide as the terminal, or as $COLUMNS says. Nothing limits what goes into a pipe."""
    unlimited = not sys.stdout.isatty() and not os.environ.get("COLUMNS")
    made = _Console(width=_UNLIMITED if unlimited else None)
    made.width = max(LEAST_WIDTH, made.width)
    return made


def is_limited(console: Console) -> bool:
    """Whether what is wider has to be shortened or wrapped."""
    return console.width < _UNLIMITED


def put(console: Console, table: RenderableType) -> None:
    """Print it without the spaces that fill up the last column."""
    with console.capture() as captured:
        console.print(table)
    # Not by Click, which encodes as UTF-8 what the terminal takes for another encoding.
    console.file.write("\n".join(row.rstrip(" ") for row in captured.get().split("\n")))
    console.file.flush()


def one_line(text: str) -> str:
    """The text on one line, so that nothing quoted in it can pass for another message."""
    return printable(text).replace("\n", "\\n")


def line(text: str) -> Text:
    """The text as one line, as Rich shows it."""
    return Text(printable(" ".join(text.split())))


def to_json(value: JsonValue) -> bytes:
    r"""The value as indented JSON in UTF-8, whatever the terminal's encoding; unsafe characters are `\u` escapes."""
    return safe_json(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False).encode())


def to_json_line(value: JsonValue) -> bytes:
    """The same on one line."""
    return safe_json(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())


def safe_json(text: bytes) -> bytes:
    r"""The same JSON in UTF-8, with everything that a terminal would act on as a `\u` escape."""
    return escaping.safe_json(text.decode()).encode()


def without_none(fields: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The fields that are not None: JSON has no names for what is not there."""
    return {name: value for name, value in fields.items() if value is not None}


def without_messages(session: Session) -> dict[str, JsonValue]:
    """The session as JSON where its messages were not read: an empty list would say that there are none."""
    return {name: value for name, value in session.to_dict().items() if name != "messages"}


def size(count: int) -> str:
    """A number of bytes, in a unit that keeps it short."""
    return decimal(count)


def utc(at_ms: int) -> str:
    """The time in UTC, for people."""
    try:
        at = clock.to_datetime(at_ms)
    except OverflowError:  # SQL that bypasses the library may have stored any number
        return f"{at_ms} ms"
    return at.strftime("%Y-%m-%d %H:%M:%S")
