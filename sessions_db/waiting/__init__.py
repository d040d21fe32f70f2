"""Waiting for messages and for the ends of sessions.

Those who wait are entered on a manager's board. What this manager's callers commit wakes them at once. What others
commit is found by polling: one query for all that are on the board, whatever their number, on a connection that nothing
else uses, and only while somebody waits.
"""
