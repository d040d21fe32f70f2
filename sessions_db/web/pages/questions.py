"""The questions of docs/audit.md with their answers, as pages, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Connection, TextClause
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sessions_db.web import asking
from sessions_db.web.questions import Question, questions
from sessions_db.web.reading import OutOfTime, Reading
from sessions_db.web.rendering import page

_FILE_ROWS: Final = 10
"""How many times as many rows as the page a file has at most."""

_CHARACTERS: Final = 50_000_000
_SHOWN: Final = 2_000

# Spreadsheets take a cell that begins so for a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last: full width


def index(request: Request) -> Response:
    """All questions, by what they are about."""
    sections = [(section, list(each)) for section, each in groupby(questions().values(), lambda each: each.section)]
    return page(request, "questions.html", sections=sections)


def question(request: Request) -> Response:
    """A question, its SQL, and its answer if all that it needs is given."""
    reading, asked, given = _asked(request)
    with reading.snapshot() as tx:
        dialect = tx.connection.dialect.name
        answer = None
        if given is not None:
            answer = _answer(reading, tx.connection, asked.statement(dialect, given), reading.row_limit)
    return page(
        request,
        "question.html",
        question=asked,
        given=given,
        sql=asked.sql_for(dialect) if given is None else asked.shown(dialect, given),
        answer=answer,
        shown=_SHOWN,
    )


def as_csv(request: Request) -> Response:
    """The answer as CSV."""
    asked, _, answer = _whole(request)
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(answer.columns)
    writer.writerows([_harmless(cell) for cell in row] for row in answer.rows)
    if not answer.is_all:
        writer.writerow([f"... cut after {len(answer.rows)} rows"])
    return _file(written.getvalue(), asked, "csv", "text/csv")


def as_json(request: Request) -> Response:
    """The answer as JSON, with the question and the SQL."""
    asked, sql, answer = _whole(request)
    whole = {
        "question": asked.title,
        "sql": sql,
        "columns": answer.columns,
        "rows": answer.rows,
        "complete": answer.is_all,
    }
    return _file(json.dumps(whole, ensure_ascii=False, indent=1), asked, "json", "application/json")


@dataclass(frozen=True, slots=True)
class _Answer:
    """The rows of an answer, and whether these are all."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    is_all: bool


def _asked(request: Request) -> tuple[Reading, Question, Mapping[str, str] | None]:
    """The question, and the values for its parameters; None if one is missing."""
    found = questions().get(request.path_params["slug"])
    if found is None:
        raise HTTPException(404)
    given = {each.name: asking.text(request, each.name) or each.default for each in found.parameters}
    complete = {name: value for name, value in given.items() if value is not None}
    return request.app.state.reading, found, complete if len(complete) == len(given) else None


def _whole(request: Request) -> tuple[Question, str, _Answer]:
    """The question, its SQL and its answer for a file."""
    reading, asked, given = _asked(request)
    if given is None:
        given = {each.name: asking.needed(request, each.name) for each in asked.parameters}
    with reading.snapshot() as tx:
        dialect = tx.connection.dialect.name
        answer = _answer(reading, tx.connection, asked.statement(dialect, given), _FILE_ROWS * reading.row_limit)
    return asked, asked.shown(dialect, given), answer


def _answer(reading: Reading, conn: Connection, statement: TextClause, limit: int) -> _Answer:
    """The rows up to the limit, or up to a limit on their size."""
    # Postgres takes the time of each portion of rows by itself.
    deadline = time.monotonic() + reading.time_limit_s
    rows: list[list[Any]] = []
    size = 0
    # Row by row from the server: a driver would otherwise fetch all of them first.
    with conn.execution_options(stream_results=True, max_row_buffer=100).execute(statement) as result:
        columns = [*result.keys()]
        for row in result:
            if time.monotonic() > deadline:
                raise OutOfTime(reading.time_limit_s)
            if len(rows) == limit or size > _CHARACTERS:
                return _Answer(columns, rows, is_all=False)
            rows.append([int(cell) if isinstance(cell, Decimal) else cell for cell in row])
            size += sum(len(cell) for cell in row if isinstance(cell, str))
    return _Answer(columns, rows, is_all=True)


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _file(content: str, asked: Question, ending: str, media_type: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{asked.slug}.{ending}"'}
    return Response(content, headers=headers, media_type=media_type)
