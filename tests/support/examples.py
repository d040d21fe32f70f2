"""How many examples Hypothesis tries: few and always the same ones, or, on request, many and new ones.

`SESSIONS_DB_TEST_EXAMPLES=50` tries fifty times as many, other ones in each run.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("SESSIONS_DB_TEST_EXAMPLES", "1"))


def note(request: pytest.FixtureRequest, name: str, number: int) -> None:
    """Keep a figure of the test, which is shown when all tests are through."""
    request.node.user_properties.append((name, number))


def examples(number: int) -> settings:
    """Settings for a test that tries `number` examples in a quick run."""
    return settings(
        max_examples=number * FACTOR,
        derandomize=FACTOR == 1,
        deadline=None,
        database=None,
        # The databases are there for all examples of a test, and a file of some megabytes is an example too.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )
