"""`AsyncSessionManager`: the same operations, awaitable, run on the manager's own threads.

There is only one implementation, the synchronous one. The connection pool bounds concurrency either way, so a thread
for each connection costs nothing, and it works on any event loop.
"""

from sessions_db.aio.manager import AsyncSessionManager
from sessions_db.aio.store import AsyncTransaction

__all__ = ["AsyncSessionManager", "AsyncTransaction"]
