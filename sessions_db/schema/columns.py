"""What tables are made of: the types, constraints and indexes that several have, and the metadata that holds all."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)

# Keys sort by their bytes on both databases, whatever the collation of a Postgres database.
Key = Text().with_variant(Text(collation="C"), "postgresql")

# STRICT tables know INTEGER only, which holds 64 bits there.
Int64 = BigInteger().with_variant(Integer(), "sqlite")


def one_of(column: str, choices: type[StrEnum]) -> str:
    """The condition that the column holds one of the choices."""
    return f"{column} IN ({', '.join(repr(choice.value) for choice in choices)})"


def is_json_object(table: str) -> tuple[CheckConstraint, CheckConstraint]:
    """The constraint that the column `metadata` holds a JSON object, for either database."""
    name = f"ck_{table}_metadata"
    return (
        CheckConstraint(
            "metadata IS NULL OR json_valid(metadata) AND json_type(metadata) = 'object'", name=name
        ).ddl_if(dialect="sqlite"),
        CheckConstraint("json_typeof(metadata) = 'object'", name=name).ddl_if(dialect="postgresql"),
    )


def index(name: str, *columns: str, only: str, unique: bool = False) -> Index:
    """An index of the rows in which the column `only` is not null."""
    is_there = text(f"{only} IS NOT NULL")
    return Index(name, *columns, unique=unique, sqlite_where=is_there, postgresql_where=is_there)


metadata = MetaData()


def tables_of(dialect: str) -> list[Table]:
    """The tables of a database of this kind, each after those that it refers to."""
    return [table for table in metadata.sorted_tables if table.info.get("only_on", dialect) == dialect]
