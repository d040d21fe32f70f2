"""Every transaction, each a function of a `Connection` that never opens, commits or sleeps.

The functions expect checked input. A connection in autocommit mode makes each statement a transaction of its own;
a function whose docstring says "needs a transaction" must be given an open one.
"""
