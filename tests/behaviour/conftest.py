"""The behaviour suite runs over both faces and both databases."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)
