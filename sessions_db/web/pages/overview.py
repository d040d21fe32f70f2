"""The last weeks at a glance: charts, each with its figures beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, case, func, select
from starlette.requests import Request
from starlette.responses import Response

from sessions_db import clock
from sessions_db.enums import SessionStatus
from sessions_db.web import charts
from sessions_db.web.reading import OutOfTime, Reading
from sessions_db.web.rendering import page, span
from sessions_db.web.views import MESSAGES, SESSIONS

_DAYS: Final = 30
_HOURS: Final = 48
_ROWS: Final = 12
_FAILED: Final = (SessionStatus.ERROR, SessionStatus.TIMEOUT)


@dataclass(frozen=True, slots=True)
class _Figure:
    """A chart and its figures. `chart` is None if the figures were not there in time, or if there are none."""

    title: str
    chart: str | None
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]] | None


def overview(request: Request) -> Response:
    """Sessions by day and outcome, failures by agent, messages by hour, and who has been idle longest."""
    reading: Reading = request.app.state.reading
    figures = []
    for title, make in (
        (f"Sessions of the last {_DAYS} days, by day of creation and outcome", _by_day),
        (f"Failures by agent: percent of the sessions of {_DAYS} days that ended", _failures),
        (f"Messages of the last {_HOURS} hours, by hour", _by_hour),
        ("Longest idle: hours since the last activity of an active session", _idle),
    ):
        figures.append(_figure(reading, title, make))
    return page(request, "overview.html", figures=figures, time_limit_s=reading.time_limit_s)


def _figure(
    reading: Reading, title: str, make: Callable[[Connection], tuple[str, Sequence[str], Sequence[Sequence[Any]]]]
) -> _Figure:
    try:
        with reading.snapshot() as tx:
            chart, columns, rows = make(tx.connection)
    except OutOfTime:
        return _Figure(title, None, (), None)
    return _Figure(title, chart if rows else None, columns, rows)


def _by_day(conn: Connection) -> tuple[str, Sequence[str], Sequence[Sequence[Any]]]:
    today = datetime.now(UTC).date()
    days = [str(today - timedelta(days=_DAYS - 1 - back)) for back in range(_DAYS)]
    day = func.substr(SESSIONS.c.created_at, 1, 10)
    query = select(day, SESSIONS.c.status, func.count()).where(SESSIONS.c.created_ms >= _ago(timedelta(days=_DAYS)))
    counts = {(on, status): count for on, status, count in conn.execute(query.group_by(day, SESSIONS.c.status))}
    series = {each.value: [counts.get((on, each.value), 0) for on in days] for each in SessionStatus}
    rows = [[on, *(series[name][place] for name in series)] for place, on in enumerate(days)]
    return charts.stacked([on[5:] for on in days], series), ["Day", *series], [row for row in rows if any(row[1:])]


def _failures(conn: Connection) -> tuple[str, Sequence[str], Sequence[Sequence[Any]]]:
    ended = func.count()
    failed = func.sum(case((SESSIONS.c.status.in_(_FAILED), 1), else_=0))
    query = (
        select(SESSIONS.c.agent_id, ended, failed, 100 * failed / ended)
        .where(SESSIONS.c.created_ms >= _ago(timedelta(days=_DAYS)), SESSIONS.c.status != SessionStatus.ACTIVE)
        .group_by(SESSIONS.c.agent_id)
        .order_by((100 * failed / ended).desc(), ended.desc(), SESSIONS.c.agent_id)
        .limit(_ROWS)
    )
    rows = [[agent, ended, int(failed), int(percent)] for agent, ended, failed, percent in conn.execute(query)]
    chart = charts.bars([row[0] for row in rows], [row[3] for row in rows], "error", most=100)
    return chart, ["Agent", "Ended", "Failed", "Percent"], rows


def _by_hour(conn: Connection) -> tuple[str, Sequence[str], Sequence[Sequence[Any]]]:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [(now - timedelta(hours=_HOURS - 1 - back)).isoformat()[:13] for back in range(_HOURS)]
    since_ms = _ago(timedelta(hours=_HOURS))
    hour = func.substr(MESSAGES.c.sent_at, 1, 13)
    # No index has the time of a message. Only sessions that were active since can have one that is as new.
    active = select(SESSIONS.c.session_key).where(SESSIONS.c.last_activity_ms >= since_ms)
    query = (
        select(hour, func.count())
        .where(MESSAGES.c.session_key.in_(active), MESSAGES.c.timestamp_ms >= since_ms)
        .group_by(hour)
    )
    counts: dict[str, int] = dict(map(tuple, conn.execute(query)))
    rows: list[tuple[str, int]] = [(f"{at[:10]} {at[11:]}:00", counts.get(at, 0)) for at in hours]
    chart = charts.stacked([at[5:] for at, _ in rows], {"messages": [count for _, count in rows]})
    return chart, ["Hour", "Messages"], [row for row in rows if row[1]]


def _idle(conn: Connection) -> tuple[str, Sequence[str], Sequence[Sequence[Any]]]:
    query = (
        select(SESSIONS.c.session_key, SESSIONS.c.last_activity_ms, SESSIONS.c.idle_seconds)
        .where(SESSIONS.c.status == SessionStatus.ACTIVE)
        .order_by(SESSIONS.c.last_activity_ms, SESSIONS.c.session_key)
        .limit(_ROWS)
    )
    found = conn.execute(query).all()
    chart = charts.bars(
        [row.session_key.removeprefix("agent:") for row in found],
        [round(row.idle_seconds / 3600, 1) for row in found],
        "timeout",
    )
    return chart, ["Session", "Idle for"], [[row.session_key, span(row.idle_seconds)] for row in found]


def _ago(age: timedelta) -> int:
    return clock.to_ms(datetime.now(UTC) - age)
