"""How many examples Hypothesis tries: by default few and always the same ones; on request many, new in each run.

`SESSIONS_DB_TEST_EXAMPLES=50` tries fifty times as many, different ones in each run.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("SESSIONS_DB_TEST_EXAMPLES", "1"))


def note(request: pytest.FixtureRequest, name: str, number: int) -> None:
    """Keep a figure of the test, to be shown when all tests are done."""
    request.node.user_properties.append((name, number))


def examples(number: int) -> settings:
    """Settings for a test that tries `number` examples in a quick run."""
    return settings(
        max_examples=number * FACTOR,
        derandomize=FACTOR == 1,
        deadline=None,
        database=None,
        # All examples of a test share the databases, and some examples are files of several megabytes.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )
