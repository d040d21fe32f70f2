"""The questions of docs/audit.md, which is their only home: the wheel carries it, a checkout has it in its place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from sqlalchemy import BigInteger, Text, TextClause, bindparam, text

from sessions_db.errors import InvalidInput

KEY: Final = "key"
TIME: Final = "time"
DAY: Final = "day"
NUMBER: Final = "number"
NAME: Final = "name"
WORD: Final = "word"


@dataclass(frozen=True, slots=True)
class Parameter:
    """What somebody may ask for instead of the page's example.

    `example` is the value in the page's SQL, and `label` what it means. Without a `default`, the question can't be
    answered before a value is given.
    """

    name: str
    label: str
    kind: str
    example: str
    default: str | None = None

    @property
    def literal(self) -> str:
        """How the example stands in the SQL."""
        return (
            self.example if self.kind == NUMBER else f"'%{self.example}%'" if self.kind == WORD else f"'{self.example}'"
        )

    def value(self, given: str) -> str | int:
        """What the statement gets.

        Raises:
            InvalidInput: the given value is none of this kind.
        """
        if self.kind != NUMBER:
            return f"%{given}%" if self.kind == WORD else given
        # The statements multiply minutes by 60,000, which still has to be a BIGINT.
        if not re.fullmatch(r"[0-9]{1,12}", given):
            raise InvalidInput(self.name, "must be a whole number of at most 12 digits", given)
        return int(given)

    def sql(self, given: str) -> str:
        """How the given value stands in the SQL."""
        value = self.value(given)
        return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


_SUBAGENT: Final = "agent:researcher:subagent:5d3cd809-1764-5297-a212-84619116a1f4"
_SESSION: Final = Parameter("key", "Session", KEY, _SUBAGENT)
_ROOT: Final = Parameter("key", "Session", KEY, "agent:planner:main")

PARAMETERS: Final[Mapping[str, Sequence[Parameter]]] = {
    "how-did-sessions-end-by-day-and-agent": (
        Parameter("since", "From the day", DAY, "2023-11-01", "0001-01-01"),
        Parameter("until", "Before the day", DAY, "2023-12-01", "9999-12-31"),
    ),
    "which-sessions-ended-in-error-and-what-was-said-last": (Parameter("last", "Last messages", NUMBER, "3", "3"),),
    "what-ran-for-more-than-30-minutes": (Parameter("minutes", "Minutes", NUMBER, "30", "30"),),
    "which-active-sessions-have-been-idle-for-more-than-15-minutes": (
        Parameter("minutes", "Minutes", NUMBER, "15", "15"),
    ),
    "what-was-running-at-a-given-moment": (Parameter("at", "At (UTC)", TIME, "2023-11-06T09:05:30.000Z"),),
    "what-does-the-tree-of-a-session-look-like": (Parameter("key", "Top of the tree", KEY, "agent:planner:main"),),
    "what-is-below-one-session": (_ROOT,),
    "what-happened-in-a-session-in-order": (_SESSION,),
    "which-messages-does-a-session-no-longer-retain": (_SESSION,),
    "who-had-a-label-and-when": (Parameter("label", "Label", NAME, "prices"),),
    "which-sessions-belong-to-a-ticket": (
        Parameter("field", "Field of the metadata", NAME, "ticket", "ticket"),
        Parameter("value", "Value", NAME, "T-17"),
    ),
    "who-mentioned-something": (Parameter("word", "Word", WORD, "price"),),
    "which-sessions-are-the-largest": (Parameter("limit", "How many", NUMBER, "3", "10"),),
    "what-was-changed-past-the-service": (
        Parameter("login", "The service's login (Postgres)", NAME, "billing_service", "billing_service"),
    ),
    "is-this-transcript-what-was-said": (_SESSION,),
}
"""What can be asked of each question, by its anchor in the page."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question of the page: its SQL by database, and what the page says about the answer."""

    slug: str
    title: str
    section: str
    notes: Sequence[str]
    sql: Mapping[str, str]
    parameters: Sequence[Parameter]

    def sql_for(self, dialect: str) -> str:
        """The page's SQL for this database."""
        return self.sql.get("") or self.sql[dialect]

    def statement(self, dialect: str, given: Mapping[str, str]) -> TextClause:
        """The SQL with parameters in the places of the examples, and the given values for them."""
        pieces = self._split(self.sql_for(dialect))
        sql = "".join(f":{piece.name}" if isinstance(piece, Parameter) else _plain(piece) for piece in pieces)
        bound = [
            bindparam(each.name, each.value(given[each.name]), type_=BigInteger if each.kind == NUMBER else Text)
            for each in self.parameters
        ]
        return text(sql).bindparams(*bound)

    def shown(self, dialect: str, given: Mapping[str, str]) -> str:
        """The SQL with the given values in it, to run elsewhere."""
        pieces = self._split(self.sql_for(dialect))
        return "".join(piece.sql(given[piece.name]) if isinstance(piece, Parameter) else piece for piece in pieces)

    def _split(self, sql: str) -> list[str | Parameter]:
        pieces: list[str | Parameter] = [sql]
        for parameter in self.parameters:
            pattern = rf"(?<!\w){re.escape(parameter.literal)}(?!\w)"
            split: list[str | Parameter] = []
            for piece in pieces:
                parts = [piece] if isinstance(piece, Parameter) else re.split(pattern, piece)
                for place, part in enumerate(parts):
                    split += [parameter, part] if place else [part]
            pieces = split
        return pieces


def _plain(sql: str) -> str:
    """The SQL in which SQLAlchemy finds no parameters."""
    return sql.replace("\\", "\\\\").replace(":", "\\:")


@cache
def questions() -> Mapping[str, Question]:
    """All questions, in the order of the page, by their anchors in it."""
    here = Path(__file__).parent
    page = next(path for path in (here / "audit.md", here.parents[1] / "docs" / "audit.md") if path.is_file())
    found = {}
    for section in page.read_text(encoding="utf-8").split("\n## ")[1:]:
        heading, _, body = section.partition("\n")
        for part in body.split("\n### ")[1:]:
            title, _, answer = part.partition("\n")
            sql = {which.strip(): block.strip() for which, block in re.findall(r"```sql(.*)\n([\s\S]*?)```", answer)}
            if sql:
                slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
                notes = re.sub(r"```[\s\S]*?```", "", answer).strip().split("\n\n")
                found[slug] = Question(slug, title, heading, _paragraphs(notes), sql, PARAMETERS.get(slug, ()))
    return found


def _paragraphs(notes: Sequence[str]) -> list[str]:
    """The paragraphs without their line breaks, without what only introduces a statement, and without links."""
    told = [" ".join(note.split()) for note in notes if not note.rstrip().endswith(":")]
    return [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", note) for note in told if note]
