"""Every transaction, each a function of a `Connection` that never opens, commits or sleeps.

Arguments have been checked already. An `Operation` declares what it needs; on a connection in autocommit mode, each
statement is a transaction of its own.
"""
