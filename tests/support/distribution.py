"""Which tests go to the same worker."""

from __future__ import annotations

from xdist.scheduler.loadscope import LoadScopeScheduling  # type: ignore[import-untyped]

# Their module fixtures take seconds: an environment, servers, a browser, ten thousand sessions, roles of the server.
WHOLE_MODULES = {
    "tests/reliability/test_citus.py",
    "tests/test_audit_docs.py",
    "tests/test_query_plans.py",
    "tests/test_roles.py",
    "tests/test_standby.py",
    "tests/test_web_browser.py",
    "tests/test_wheel.py",
}


class Distribution(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no annotations
    """These modules first, each as a whole, then test by test.

    `--dist=loadgroup` would do it with marks, but pytest-xdist 3.8 ignores the marks under pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return module if module in WHOLE_MODULES else nodeid
