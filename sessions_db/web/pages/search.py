"""Searching everything that was said."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from sessions_db import clock
from sessions_db.enums import SessionKind
from sessions_db.web import asking
from sessions_db.web.reading import Reading
from sessions_db.web.rendering import page


def search(request: Request) -> Response:
    """Where a text occurs, newest first, and how far the search came."""
    reading: Reading = request.app.state.reading
    text, kind = asking.text(request, "text"), asking.choice(request, "kind", SessionKind)
    since_ms = asking.moment_ms(request, "since")
    result = None
    if text is not None:
        # The search stops by itself, with what it has; the statement that it is in may take a little longer.
        with reading.snapshot(2 * reading.time_limit_s) as tx:
            result = tx.search(
                text,
                agent_id=asking.text(request, "agent"),
                kinds=None if kind is None else [kind],
                since=None if since_ms is None else clock.to_datetime(since_ms),
                timeout=reading.time_limit_s,
            )
    return page(request, "search.html", text=text, result=result, kinds=list(SessionKind))
