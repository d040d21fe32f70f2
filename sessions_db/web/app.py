"""The application: its routes, and what is shown where a page can't be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sessions_db import validation
from sessions_db.errors import DatabaseUnavailable, InvalidInput, SessionNotFound, SessionsError
from sessions_db.manager import SessionManager
from sessions_db.web.guard import Guard
from sessions_db.web.pages.log import log, verify
from sessions_db.web.pages.overview import overview
from sessions_db.web.pages.questions import as_csv, as_json, index, question
from sessions_db.web.pages.search import search
from sessions_db.web.pages.session import session, text
from sessions_db.web.pages.sessions import sessions
from sessions_db.web.reading import Forbidden, OutOfTime, Reading
from sessions_db.web.rendering import page

LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
"""The names of this machine for itself."""

# A name, all below a name, or an IPv6 address.
_HOST: Final = re.compile(r"(?:\*\.)?[\w.-]+|\[[^*\]]+\]")


def create_app(
    manager: SessionManager,
    *,
    token: str | None = None,
    hosts: Sequence[str] | None = None,
    time_limit_s: float = 10.0,
    row_limit: int = 1_000,
) -> Starlette:
    """An ASGI application that shows the manager's database, to run by itself or to mount in another one.

    It only reads. Without a token everybody who can reach it sees everything: mount it behind a sign-in.

    Args:
        manager: best a read-only one, which the caller closes.
        token: what a request must bring, as a bearer token or as the password of HTTP Basic.
        hosts: the names by which it may be asked for, without a port; any name if None. Naming them keeps web sites
            that a browser visits from reading the pages (DNS rebinding).
        time_limit_s: seconds that a statement may take.
        row_limit: how many rows of an answer are shown.

    Raises:
        InvalidInput: an argument is not valid.
    """
    if token is not None and not validation.text("token", token).strip():
        raise InvalidInput("token", "must not be empty", token)
    reading = Reading(
        manager,
        time_limit_s=validation.seconds("time_limit_s", time_limit_s),
        row_limit=validation.integer("row_limit", row_limit, minimum=1),
    )
    middleware = [Middleware(Guard, token=token)]
    if hosts is not None:
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise InvalidInput("hosts", "must be names alone, such as audit.example.com", host)
        middleware.insert(0, Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts], www_redirect=False))
    app = Starlette(
        routes=[
            Route("/", sessions, name="sessions"),
            Route("/session", session),
            Route("/session/text", text),
            Route("/search", search),
            Route("/log", log),
            Route("/log/verify", verify),
            Route("/overview", overview),
            Route("/questions", index),
            Route("/questions/{slug}.csv", as_csv),
            Route("/questions/{slug}.json", as_json),
            Route("/questions/{slug}", question),
            Mount("/static", StaticFiles(packages=[("sessions_db.web", "static")])),
        ],
        middleware=middleware,
        exception_handlers={
            HTTPException: _http,
            OutOfTime: _failed,
            Forbidden: _failed,
            SessionsError: _failed,
        },
    )
    app.state.reading = reading
    return app


_SAID: Final[Mapping[int, str]] = {
    HTTPStatus.NOT_FOUND: "There is no such page.",
    HTTPStatus.METHOD_NOT_ALLOWED: "These pages are only read.",
    HTTPStatus.SERVICE_UNAVAILABLE: "It reads all that was ever sealed, so one is done at a time.",
}


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return page(
        request,
        "error.html",
        status_code=error.status_code,
        headers=error.headers,
        title=error.detail,
        said=_SAID.get(error.status_code, ""),
    )


def _failed(request: Request, error: Exception) -> Response:
    match error:
        case OutOfTime():
            status_code, title = 503, "This takes too long"
            said = f"The database did not answer within {error.seconds:g} s. Ask for less."
        case Forbidden():
            status_code, title = 403, "This login may not read that"
            said = "It reads the views for auditors only. Searching and verifying read the tables."
        case SessionNotFound():
            status_code, title, said = 404, "Not found", str(error)
        case InvalidInput():
            status_code, title, said = 400, "This can't be asked", str(error)
        case DatabaseUnavailable():
            status_code, title, said = 503, "The database can't be reached", str(error)
        case _:
            status_code, title, said = 500, "The database can't be read", str(error)
    return page(request, "error.html", status_code=status_code, title=title, said=said)
