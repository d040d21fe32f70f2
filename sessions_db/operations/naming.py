"""Finding sessions by what people type: a label, the end of a key, the beginning of a name."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from sessions_db.keys import MAX_KEY_BYTES
from sessions_db.operations.labels import owner
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.selecting import begins_with
from sessions_db.schema import labels, sessions


@needs(Needs.READ)
def named(conn: Connection, name: str, limit: int) -> list[str]:
    """The key of the session with this key, or else with this label, or else all keys that end so.

    Those come newest first, `limit` at most. Only they take longer the more sessions there are: no index holds ends, so
    every key is read from one that holds keys.
    """
    if conn.execute(select(sessions.c.key).where(sessions.c.key == name)).first() is not None:
        return [name][:limit]
    if (labelled := owner(conn, name)) is not None:
        return [labelled][:limit]
    if len(name) > MAX_KEY_BYTES:
        # SQLite refuses long patterns.
        return []
    of = sessions.c
    # LIKE takes half the time of `substr`, but SQLite's takes upper and lower case for the same.
    ends_so = (of.key.endswith(name, autoescape=True), func.substr(of.key, func.length(of.key) - len(name) + 1) == name)
    query = select(of.key).where(*ends_so).order_by(of.created_ms.desc(), of.key.desc()).limit(limit)
    return [key for (key,) in conn.execute(query)]


@needs(Needs.READ)
def keys_beginning(conn: Connection, prefix: str, limit: int) -> list[str]:
    """The last keys, in the order of their bytes, that begin so: of an agent's spawned sessions the newest."""
    within = begins_with(sessions.c.key, prefix)
    query = select(sessions.c.key).where(*within).order_by(sessions.c.key.desc()).limit(limit)
    return [key for (key,) in conn.execute(query)]


@needs(Needs.READ)
def labels_beginning(conn: Connection, prefix: str, limit: int) -> list[str]:
    """Labels that begin so. They are compared one by one: the index has the database's collation."""
    query = select(labels.c.label).where(func.substr(labels.c.label, 1, len(prefix)) == prefix)
    return [label for (label,) in conn.execute(query.limit(limit))]


@needs(Needs.READ)
def agents_beginning(conn: Connection, prefix: str, limit: int) -> list[str]:
    """The first agents that begin so, by one look into the index of keys for each."""
    found: list[str] = []
    from_key = f"agent:{prefix}"
    while len(found) < limit:
        query = select(sessions.c.agent_id).where(sessions.c.key >= from_key).order_by(sessions.c.key).limit(1)
        agent_id = conn.execute(query).scalar()
        if agent_id is None or not agent_id.startswith(prefix):
            break
        found.append(agent_id)
        # All of this agent's keys have a colon here, and the semicolon is the next character.
        from_key = f"agent:{agent_id};"
    return found
