"""Every cap, size and time span that the library promises."""

from datetime import timedelta
from typing import Final

DEFAULT_MESSAGE_CAP: Final = 100
"""How many messages a session retains unless told otherwise."""

MAX_MESSAGE_CAP: Final = 2**31 - 1
"""The largest cap: its column is an `INTEGER`."""

DEFAULT_LOG_DAYS: Final = 180
"""How many days the database refuses to delete a log entry, unless told otherwise."""

REDACTED: Final = "[redacted]"
"""What a redacted message says. Its metadata holds the reason, as `redacted`."""

MAX_NAME_LENGTH: Final = 255
"""Characters in an agent id, a label, a tool name or an idempotency key.

Postgres refuses index rows of more than about 2,700 bytes, and an index holds at most two of these.
"""

MAX_CONVERSATION_NAME_BYTES: Final = 255
"""Bytes of UTF-8 in the name of a conversation: it is part of a key, of which an index row holds two."""

MAX_TEXT_BYTES: Final = 256 * 1024 * 1024
"""Bytes of UTF-8 in any other text. Postgres limits a value to 1 GB, SQLite a row to 1,000,000,000 bytes."""

MAX_BATCH_BYTES: Final = 1_000_000_000
"""Bytes of a batch of messages as JSON: SQLite's limit for a value. Postgres closes the connection above 2^30."""

MAX_JSON_DEPTH: Final = 100
"""Levels of nesting in metadata. SQLite's JSON functions stop at 1,000, Python's parser at its recursion limit."""

MAX_JSON_INTEGER_BITS: Final = 14_000
"""Bits of an integer in metadata: about 4,200 digits. Python prints 4,300 (`sys.set_int_max_str_digits`)."""

MAX_INTEGER: Final = 2**63 - 1
"""The largest `BIGINT`."""

MAX_SECONDS: Final = 2_147_483
"""The longest wait, 24 days: the databases count milliseconds in 32 bits."""

MIN_POLL_INTERVAL_S: Final = 0.001
"""The shortest time between two polls."""

DEFAULT_POLL_INTERVAL_S: Final = 0.1
"""How soon those who wait notice what other processes commit, unless told otherwise."""

MAX_AGE: Final = timedelta(days=36_500)
"""The longest age that retention accepts: 100 years. A longer one is a mistake."""

MAX_POOL_SIZE: Final = 10_000
"""The most connections that a manager may keep."""

MAX_SCHEMA_NAME_BYTES: Final = 63
"""Bytes of UTF-8 in the name of a schema: Postgres would cut off the rest, and two names would be one."""

PAGE: Final = 100
"""How many sessions are read at once by what reads many, such as `iterate`."""

PLACES: Final = 10_000
"""How many keys that begin alike `iterate` sorts at once: no index has them in its order."""

SWEEP_BATCH: Final = 500
"""How many sessions one statement of `prune` or `timeout_idle` changes, so that locks are held for milliseconds."""

MAX_GROUP_MESSAGES: Final = 256
"""The most messages that one statement of a group commit stores, unless a single caller appends more."""

MAX_GROUP_LENGTH: Final = 256 * 1024
"""The most characters of these messages."""

BRIEF_LOCK_WAIT_MS: Final = 100
"""For how long appends to several sessions that others have locked wait together, before each waits by itself."""
