"""Commands that show how sessions are related, and how many there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click

from sessions_db import clock
from sessions_db.cli import tables, terminal
from sessions_db.cli.group import as_json, cli
from sessions_db.cli.naming import find, key_argument
from sessions_db.cli.opening import Database, database, reader
from sessions_db.errors import SessionNotFound
from sessions_db.models import Session, Statistics
from sessions_db.transaction import Transaction
from sessions_db.validation import JsonValue

# If there are more, `stats` prints those with the most sessions.
_AGENTS_SHOWN = 10


@cli.command()
@key_argument
@click.option("--depth", type=click.IntRange(min=0), default=10, show_default=True, help="How many levels below KEY.")
@click.option("--limit", type=click.IntRange(min=0), default=200, show_default=True, help="How many below KEY at most.")
@as_json
@database
@click.pass_obj
def tree(db: Database, key: str, depth: int, limit: int, as_json: bool) -> None:
    """Show session KEY and its descendants.

    Below it come the sessions that it spawned, below each of those the ones that it spawned, and so on.

    If the tree is larger than --depth and --limit allow, the levels closest to KEY come first, and of one session's
    children the newest; the number left out is printed at the end.
    """
    with reader(db) as manager:
        key = find(manager, key)
        with manager.snapshot() as tx:
            root = tx.get(key)
            if root is None:
                raise SessionNotFound(key)
            children = _children(tx, key, depth, limit)
            shown = [*_in_order(root, children)]
            # The root is one of its own descendants where a cycle was made by hand.
            left_out = tx.count(under=key) - (len(shown) - 1)
    if as_json:
        sessions: list[JsonValue] = [
            {"depth": level, **terminal.without_messages(session)} for session, level, _ in shown
        ]
        click.echo(terminal.to_json({"sessions": sessions, "leftOut": left_out}))
        return
    tables.print_tree(terminal.console(), shown)
    if left_out:
        click.echo(f"{left_out:,} more below it; --depth and --limit show more.")


def _children(tx: Transaction, key: str, depth: int, limit: int) -> dict[str, list[Session]]:
    """The children of each session, oldest first, level by level until there are enough."""
    children: dict[str, list[Session]] = {}
    known, level = {key}, [key]
    for _ in range(depth):
        below: list[str] = []
        for parent_key in level:
            if not limit:
                return children
            found = tx.list(limit=limit, parent_key=parent_key)
            # Only SQL that bypasses the library can create a cycle.
            children[parent_key] = [session for session in reversed(found) if session.key not in known]
            known |= {session.key for session in found}
            below += [session.key for session in children[parent_key]]
            limit -= len(children[parent_key])
        level = below
    return children


def _in_order(root: Session, children: dict[str, list[Session]]) -> Iterator[tuple[Session, int, list[bool]]]:
    """Each session after its parent, with its depth and, for each level down to it, whether it is the last there."""
    to_do: list[tuple[Session, list[bool]]] = [(root, [])]
    while to_do:
        session, lasts = to_do.pop()
        yield session, len(lasts), lasts
        below = children.get(session.key, [])
        to_do += [(child, [*lasts, child is below[-1]]) for child in reversed(below)]


@cli.command()
@as_json
@database
@click.pass_obj
def stats(db: Database, as_json: bool) -> None:
    """Show how many sessions and messages there are.

    Sessions are counted by kind, status and agent. Of the messages, those that a session no longer retains are
    trimmed; where the session says so, they are archived instead of deleted.
    """
    with reader(db) as manager:
        found = manager.statistics()
    if as_json:
        click.echo(terminal.to_json(_to_dict(found)))
    else:
        tables.print_fields(terminal.console(), _fields(found))


def _to_dict(found: Statistics) -> dict[str, JsonValue]:
    counts: dict[str, JsonValue] = {
        "sessions": found.sessions,
        "byKind": found.by_kind,
        "byStatus": found.by_status,
        "byAgent": found.by_agent,
        "labels": found.labels,
        "messages": {
            "appended": found.appended,
            "retained": found.retained,
            "trimmed": found.trimmed,
            "archived": found.archived,
        },
        "events": found.events,
        "databaseBytes": found.database_bytes,
        "oldest": None if found.oldest is None else {"key": found.oldest[0], "createdMs": found.oldest[1]},
        "newest": None if found.newest is None else {"key": found.newest[0], "createdMs": found.newest[1]},
        "longestIdle": None
        if found.longest_idle is None
        else {"key": found.longest_idle[0], "lastActivityMs": found.longest_idle[1]},
    }
    return terminal.without_none(counts)


def _fields(found: Statistics) -> dict[str, str | None]:
    agents = list(found.by_agent.items())[:_AGENTS_SHOWN]
    more = len(found.by_agent) - len(agents)
    return {
        "Sessions": f"{found.sessions:,}",
        "By kind": _listed(found.by_kind),
        "By status": _listed(found.by_status),
        "By agent": _listed(dict(agents)) + (f", and {more:,} more agents" if more else ""),
        "Labels": f"{found.labels:,}",
        "Messages": f"{found.appended:,} in all, {found.retained:,} retained, {found.trimmed:,} trimmed",
        "Archived": f"{found.archived:,} of those trimmed",
        "Events": f"{found.events:,} in the log",
        "Database": terminal.size(found.database_bytes),
        "Oldest": _at("created", found.oldest),
        "Newest": _at("created", found.newest),
        "Longest idle": _idle(found.longest_idle),
    }


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _at(what: str, session: tuple[str, int] | None) -> str | None:
    return None if session is None else f"{session[0]}, {what} {terminal.utc(session[1])} UTC"


def _idle(session: tuple[str, int] | None) -> str | None:
    if session is None:
        return None
    idle_s = max(0, clock.now_ms() - session[1]) // 1000
    return f"{session[0]}, for {idle_s:,} s, since {terminal.utc(session[1])} UTC"
