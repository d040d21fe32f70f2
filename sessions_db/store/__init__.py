"""The operations as methods with checked arguments, by noun."""

from sessions_db.store.lifecycle import Lifecycle
from sessions_db.store.listing import Listing
from sessions_db.store.log import Log
from sessions_db.store.messages import Messages
from sessions_db.store.searching import Searching
from sessions_db.store.sessions import Sessions
from sessions_db.store.spawning import Spawning
from sessions_db.store.transfer import Transfer


class SessionStore(Sessions, Spawning, Listing, Searching, Messages, Lifecycle, Log, Transfer):
    """The operations that `SessionManager` and `Transaction` share.

    Arguments are checked before anything is sent. Every method raises `InvalidInput` naming an argument that is not
    accepted, `DatabaseUnavailable` when the database can't be reached or stays locked for longer than the manager
    waits, and `SchemaMismatch` when a table is not what it should be. Returned values never change.

    If a session does not exist, methods that read one session return None, methods that read a set of sessions leave it
    out, methods that change one raise `SessionNotFound`, and `delete_session`, with nothing left to do, returns False.
    """


__all__ = ["SessionStore"]
