"""Pages from templates. Whatever is stored is shown as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from typing import Final
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse

from sessions_db import clock, escaping
from sessions_db.wording import counted

_INDENTED: Final = json.JSONEncoder(ensure_ascii=False, indent=2)
_INDENTING_TIMES: Final = 4


def stored(text: object) -> Markup:
    """A stored text: unsafe characters as visible escapes, its direction kept from what is around it."""
    escaped = escaping.UNSAFE.sub(
        lambda found: f'<span class="unsafe">{escaping.escape(found[0])}</span>', str(escape(text))
    )
    # Everything in it is escaped above; the rest are this function's own tags.
    return Markup('<bdi dir="auto">{}</bdi>').format(Markup(escaped))  # noqa: S704


def at(text: str | None) -> Markup:
    """A time of a view, for people and for programs."""
    if text is None:
        return Markup("&ndash;")
    return Markup('<time datetime="{}">{}</time>').format(text, text[:19].replace("T", " "))


def at_ms(value: int) -> Markup:
    """The same for milliseconds since the epoch."""
    try:
        return at(clock.to_datetime(value).isoformat(timespec="milliseconds").replace("+00:00", "Z"))
    except OverflowError:  # SQL that bypasses the library may have stored any number
        return escape(f"{value} ms")


def marked(text: str, wanted: str) -> Markup:
    """A stored text, with what was searched for marked."""
    parts = re.split(f"({re.escape(wanted)})", text, flags=re.IGNORECASE)
    return Markup().join(
        Markup("<mark>{}</mark>").format(stored(part)) if place % 2 else stored(part)
        for place, part in enumerate(parts)
    )


def number(value: int) -> str:
    """The number with separators."""
    return f"{value:,}"


def span(seconds: int | None) -> str:
    """A span of time in its two largest units: "3 d 4 h", "12 s"."""
    if seconds is None:
        return "-"
    parts: list[str] = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, seconds = divmod(seconds, size)
        if count or parts or unit == "s":
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def pretty(value: object) -> str:
    """JSON to read: indented, or on one line where indenting would make several times as much of it.

    Raises:
        RecursionError: it is nested too deeply.
    """
    on_one_line = json.dumps(value, ensure_ascii=False)
    # Of values that are nested deeply, indenting makes some hundred times as much.
    pieces, left = list[str](), _INDENTING_TIMES * len(on_one_line)
    for piece in _INDENTED.iterencode(value):
        pieces.append(piece)
        left -= len(piece)
        if left < 0:
            return on_one_line
    return "".join(pieces)


def link(root: str, path: str, /, **parameters: object) -> str:
    """The path of a page, below where the application is mounted, with those parameters that have a value."""
    query = urlencode({name: value for name, value in parameters.items() if value not in (None, "")}, doseq=True)
    return f"{root}{path}{'?' if query else ''}{query}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sessions_db.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for each in (stored, escaping.printable, at, at_ms, marked, number, counted, span):
        environment.filters[each.__name__] = each
    return environment


_ENVIRONMENT = _environment()


def page(
    request: Request,
    template: str,
    /,
    *,
    status_code: int = 200,
    headers: Mapping[str, str] | None = None,
    **context: object,
) -> HTMLResponse:
    """The page that the template makes of the context."""
    root = request.scope.get("root_path", "")
    path = request.url.path.removeprefix(root)
    query = dict(request.query_params)
    html = _ENVIRONMENT.get_template(template).render(
        **context,
        link=partial(link, root),
        # The same page with other parameters.
        more=lambda **changes: link(root, path, **(query | changes)),
        path=path,
        asked=query,
    )
    return HTMLResponse(html, status_code, headers)
