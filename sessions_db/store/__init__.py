"""The operations as methods with checked arguments, by noun."""

from sessions_db.store.lifecycle import Lifecycle
from sessions_db.store.log import Log
from sessions_db.store.messages import Messages
from sessions_db.store.sessions import Sessions
from sessions_db.store.transfer import Transfer


class SessionStore(Sessions, Messages, Lifecycle, Log, Transfer):
    """The operations, which a `SessionManager` and a `Transaction` have in common.

    Arguments are checked before anything is sent. Every method raises `InvalidInput` naming an argument that is not
    accepted, `DatabaseUnavailable` when the database can't be reached or stays locked for longer than the manager
    waits, and `SchemaMismatch` when a table is not what it should be. Returned snapshots do not change any more.

    A session that does not exist: what reads one session returns None, what reads a set of sessions returns none of
    them, what changes one raises `SessionNotFound`, and `delete_session`, which has nothing left to do, returns False.
    """


__all__ = ["SessionStore"]
