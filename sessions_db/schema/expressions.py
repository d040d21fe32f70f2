"""The SQL expressions that the two databases write differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    Column,
    ColumnElement,
    Integer,
    Table,
    TableValuedAlias,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    false,
    func,
    insert,
    literal_column,
    not_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from sessions_db.limits import REDACTED
from sessions_db.schema.json import Json
from sessions_db.schema.log_tables import event_actor, message_removals
from sessions_db.schema.tables import archived_messages, messages


def insert_into(dialect: str, table: Table) -> postgresql.Insert | sqlite.Insert:
    """The dialect's own INSERT: SQLAlchemy has no common form of ON CONFLICT."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def insert_if_free(
    dialect: str,
    key: Column[Any],
    columns: Sequence[str],
    *conditions: ColumnElement[bool],
    returning: Sequence[ColumnElement[Any]] = (),
) -> ReturningInsert[Any]:
    """The INSERT of a row, unless a row with this key is there or a condition is not met.

    It returns the columns that are named, or else the key. Each value is the parameter `new_` and the column's name,
    with metadata as text.
    """
    table = key.table
    values = {
        name: cast(bindparam(f"new_{name}", type_=Text), Json)
        if name == "metadata"
        else bindparam(f"new_{name}", type_=table.c[name].type)
        for name in columns
    }
    # SQLite's triggers refuse a conflict before ON CONFLICT sees it; there, no writer comes in between.
    free = select(*values.values()).where(~exists().where(key == values[key.name]), *conditions)
    insert = insert_into(dialect, table).from_select(columns, free)
    if dialect == "postgresql":
        insert = insert.on_conflict_do_nothing(index_elements=[key])
    return insert.returning(*(returning or [key]))


class JsonRows(NamedTuple):
    """A JSON array of arrays, as rows: the rows, the column that numbers them from 1, and the value at a position."""

    rows: TableValuedAlias
    number: ColumnElement[Any]
    value: Callable[[int], ColumnElement[Any]]


def json_rows(dialect: str, parameter: str) -> JsonRows:
    """The rows of the JSON array of arrays that this parameter holds as text."""
    if dialect == "postgresql":
        array = func.json_array_elements(bindparam(parameter, type_=Json))
        rows = array.table_valued("value", with_ordinality="number").render_derived(name="batch")
        return JsonRows(rows, rows.c.number, lambda position: func.json_extract_path_text(rows.c.value, str(position)))
    rows = func.json_each(bindparam(parameter, type_=Text)).table_valued("key", "value", name="batch")
    return JsonRows(rows, rows.c.key + 1, lambda position: func.json_extract(rows.c.value, f"$[{position}]"))


def is_one_of(dialect: str, column: ColumnElement[str], parameter: str) -> ColumnElement[bool]:
    """Whether the column is in the JSON array of strings that this parameter holds as text."""
    if dialect == "postgresql":
        texts = select(func.json_array_elements_text(bindparam(parameter, type_=Json))).scalar_subquery()
        # An array, of which the planner assumes ten items: of a subquery it assumes a hundred rows, and for these it
        # would rather read a table of some thousand rows whole.
        return column == any_(func.array(texts, type_=postgresql.ARRAY(Text)))
    return column.in_(select(func.json_each(bindparam(parameter, type_=Text)).table_valued("value").c.value))


class JsonPairs(NamedTuple):
    """A JSON object of integers, as rows: the rows, the name and the number."""

    rows: TableValuedAlias
    name: ColumnElement[str]
    number: ColumnElement[int]


def json_pairs(dialect: str, parameter: str) -> JsonPairs:
    """The rows of the JSON object of integers that this parameter holds as text."""
    if dialect == "postgresql":
        pairs = func.json_each_text(bindparam(parameter, type_=Json))
        rows = pairs.table_valued("key", "value").render_derived(name="pair")
    else:
        rows = func.json_each(bindparam(parameter, type_=Text)).table_valued("key", "value", name="pair")
    return JsonPairs(rows, rows.c.key, cast(rows.c.value, BigInteger))


def near(dialect: str, table: Table) -> list[ColumnElement[bool]]:
    """Conditions on messages that a join with JSON rows holds anyway: their sessions, `keys`, and bounds of `seq`.

    For Postgres, which would read the whole table while it does not know how large it has become: five times as slow
    over 200,000 messages (measured once). SQLite never does, and took twice as long with them.
    """
    if dialect != "postgresql":
        return []
    low, high = bindparam("low", type_=BigInteger), bindparam("high", type_=BigInteger)
    return [is_one_of(dialect, table.c.session_key, "keys"), table.c.seq > low, table.c.seq <= high]


ACT_AS: Final[Mapping[str, ClauseElement]] = {"sqlite": insert(event_actor).values(name=bindparam("actor"))}
"""The statement that names who is acting, as the parameter `actor`, for the triggers that write the log.

Where there is none, `set_actor` gives it.
"""


def set_actor(actor: str) -> str:
    """The statement for Postgres that names who is acting.

    Local to the transaction: behind PgBouncer the next one may be another client's. Not set_config(), which Citus does
    not send on to the node that a schema is on. SET takes no parameters.
    """
    escaped = actor.replace("\\", "\\\\").replace("'", "''").replace("%", "%%")
    return f"SET LOCAL sessions_db.actor = E'{escaped}'"


STOP_ACTING: Final[Mapping[str, ClauseElement]] = {"sqlite": delete(event_actor)}
"""The statement that clears the name before the transaction ends; there is none where the end does so."""

LEFT_OVER: Final[Mapping[str, ClauseElement]] = {"sqlite": select(event_actor)}
"""The query for names that nobody cleared, where there can be any. `STOP_ACTING` clears them."""


UNLESS_NAMED: Final[Mapping[str, ColumnElement[bool]]] = {
    "sqlite": ~exists(select(event_actor).where(bindparam("is_alone", type_=Integer) == 1))
}
"""The condition for a statement to do nothing while there are such names.

`is_alone` is 1 if it is a transaction of its own, otherwise 0: the name is that of whoever began the transaction.
"""

_KEY: Final = bindparam("key", type_=Text)
_SEQ: Final = bindparam("seq", type_=BigInteger)
_MARK: Final = bindparam("mark", type_=Text)


def _redaction(table: Table) -> ClauseElement:
    is_marked = and_(table.c.content == REDACTED, func.json_extract(table.c.metadata, "$.redacted").is_not(None))
    return (
        update(table)
        .where(table.c.session_key == _KEY, table.c.seq == _SEQ, not_(func.coalesce(is_marked, false())))
        .values(
            content=REDACTED,
            tool_name=case((table.c.tool_name.is_not(None), REDACTED)),
            metadata=_MARK,
        )
    )


REDACT: Final[Mapping[str, Sequence[ClauseElement]]] = {
    "sqlite": [_redaction(messages), _redaction(archived_messages)],
    "postgresql": [select(func.messages_redact(_KEY, _SEQ, cast(_MARK, Json)))],
}
"""The statements that redact the message `seq` of the session `key`; `mark` is its metadata then."""

REMOVE: Final[Mapping[str, ClauseElement]] = {
    "sqlite": insert(message_removals).values(
        session_key=_KEY, first_seq=bindparam("first_seq"), last_seq=bindparam("last_seq")
    ),
    "postgresql": select(
        func.messages_remove(_KEY, bindparam("first_seq", type_=BigInteger), bindparam("last_seq", type_=BigInteger))
    ),
}
"""The statement that removes the messages `first_seq` to `last_seq` of the session `key`."""

SKIP: Final[Mapping[str, ClauseElement]] = {
    "sqlite": insert(message_removals).values(
        session_key=_KEY, first_seq=bindparam("new_last_seq"), last_seq=bindparam("new_last_seq")
    ),
    "postgresql": select(func.messages_skip(_KEY, bindparam("new_last_seq", type_=BigInteger))),
}
"""The statement that passes over the numbers up to `new_last_seq`, of a session made in the same transaction."""

WRITE_ARCHIVED: Final[Mapping[str, ClauseElement]] = {
    "sqlite": insert(archived_messages).from_select(
        archived_messages.c.keys(),
        select(
            _KEY,
            *(
                func.json_extract(literal_column("value"), f"$.{name}", type_=archived_messages.c[name].type)
                for name in archived_messages.c.keys()[1:]
            ),
        ).select_from(func.json_each(bindparam("rows", type_=Text)).table_valued("value")),
    ),
    "postgresql": select(func.messages_archive(_KEY, cast(bindparam("rows", type_=Text), Json))),
}
"""The statement that archives the messages of the JSON array `rows`, of a session made in the same transaction."""
