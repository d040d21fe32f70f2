"""Waiting until another connection is blocked."""

from __future__ import annotations

import time

from tests.support.client import PlainClient


def wait_for_lock(plain: PlainClient) -> None:
    """Wait until another connection to the Postgres database is waiting for a lock."""
    # On Citus, the one that waits may be the coordinator's, on another node.
    (is_on_citus,) = plain("SELECT current_setting('citus.version', true) IS NOT NULL")[0]
    activity = "citus_stat_activity" if is_on_citus else "pg_stat_activity"
    waiting = f"SELECT count(*) FROM {activity} WHERE datname = current_database() AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 30
    while plain(waiting) == [(0,)]:
        assert time.monotonic() < deadline, "nobody waits for a lock"
        plain("SELECT pg_stat_clear_snapshot()")  # within a transaction, statistics stay as they were when first read
