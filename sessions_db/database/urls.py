"""Database URLs: which ones are supported, and how to show one without its secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import URL, exc, make_url

from sessions_db.database import BACKENDS
from sessions_db.database.paths import path_of
from sessions_db.errors import InvalidInput, Shown

SUPPORTED: Final = "must be a SQLite or Postgres URL ({})".format(
    ", ".join(f"{backend.name}+{backend.driver}" for backend in BACKENDS.values())
)


def parse_url(url: str | URL) -> URL:
    """The URL with the driver that this library uses.

    Raises:
        InvalidInput: it can't be parsed, or names another database or driver.
    """
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        # The text may contain a password.
        raise InvalidInput(
            "database",
            "must be a database URL such as sqlite:///sessions.db",
            Shown("a text that can't be read as one"),
        ) from None
    name, _, driver = parsed.drivername.partition("+")
    backend = BACKENDS.get("postgresql" if name == "postgres" else name)
    if backend is None or driver not in ("", backend.driver):
        raise InvalidInput("database", SUPPORTED, shown(parsed))
    return parsed.set(drivername=f"{backend.name}+{backend.driver}")


def file_of(url: str | URL) -> Path | None:
    """The file that the URL names, whether it exists or not; None for a server or a database in memory.

    Raises:
        InvalidInput: as `parse_url`.
    """
    parsed = parse_url(url)
    if BACKENDS[parsed.get_backend_name()].is_on_a_server or is_in_memory(url):
        return None
    try:
        return Path(path_of(str(parsed.database)))
    except ValueError:
        # Of the operating system, about NUL.
        raise InvalidInput("database", "must be a URL that the driver takes", shown(parsed)) from None


def is_in_memory(url: str | URL) -> bool:
    """Whether the database disappears when its only connection closes.

    Raises:
        InvalidInput: as `parse_url`.
    """
    parsed = parse_url(url)
    return BACKENDS[parsed.get_backend_name()].is_in_memory(parsed)


def shown(url: URL) -> Shown:
    """The URL without anything that may be secret: a query may contain a password too."""
    return Shown(url.set(query={}).render_as_string())
