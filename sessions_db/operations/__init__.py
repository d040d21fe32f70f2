"""Every transaction, each a function of a `Connection` that never opens, commits or sleeps.

Arguments are checked before. An `Operation` declares what it needs; a connection in autocommit mode makes each
statement a transaction of its own.
"""
