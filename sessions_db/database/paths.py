"""Paths of SQLite's files, and URLs with them."""

from __future__ import annotations

import os
import sqlite3
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from sqlalchemy import URL
from sqlalchemy.util import asbool

from sessions_db.errors import InvalidInput, Shown

_NO_SHM: Final = (
    " is in a directory that can't be written to, where even a reader needs a -shm file beside it; if nothing changes "
    "it meanwhile, add immutable=1 to its URL (sqlite:///file:PATH?immutable=1&uri=true)"
)


def path_of(database: str) -> str:
    """The path of a file that is given to SQLite as a path or a URI, absolute and without symbolic links."""
    return os.path.realpath(unquote(urlsplit(database).path) if database.startswith("file:") else database)


def with_resolved_path(url: URL) -> URL:
    """The same file, even if the working directory or a symbolic link changes before a later connection.

    Raises:
        InvalidInput: no file can have this name.
    """
    database = str(url.database)
    try:
        if not (database.startswith("file:") and asbool(url.query.get("uri"))):
            return url.set(database=os.path.realpath(database))
        uri = urlsplit(database)
        # SQLite takes "localhost" for no host, and refuses others.
        if not uri.path or uri.netloc not in ("", "localhost") or "mode=memory" in uri.query:
            return url
        return url.set(database=uri._replace(netloc="", path=quote(path_of(database))).geturl())
    except ValueError:
        # Of the operating system, about NUL or a lone surrogate.
        raise InvalidInput("database", "must be a URL that the driver takes", Shown("another")) from None


def without_creating(url: URL, *, read_only: bool) -> URL:
    """The URL of the same file, which SQLite then does not create, or change either (https://sqlite.org/uri.html)."""
    database = str(url.database)
    if not database.startswith("file:"):
        database = f"file:{quote(database)}"
    mode = "ro" if read_only or url.query.get("mode") == "ro" else "rw"
    return url.set(database=database).update_query_dict({"mode": mode, "uri": "true"})


def explain(error: sqlite3.Error, file: str | None, *, read_only: bool) -> None:
    """Have the error of a new connection name the file, and what a reader can do that SQLite asks to write."""
    refused = read_only and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY
    error.args = (f"{error}: {file}{_NO_SHM if refused else ''}",)
