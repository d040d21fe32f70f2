"""How much the reliability tests do, and the figures that they print when they are through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

_FIGURES = pytest.StashKey[dict[str, Counter[str]]]()


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.full)], ids=["quick", "full"])
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the test does all that the figures in the docs stand for; only `pytest -m full` asks for that."""
    return bool(request.param)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Counts, each under a name, that are shown when all tests are through, those of a failed test too."""
    counted: Counter[str] = Counter()
    yield counted
    request.config.stash.setdefault(_FIGURES, {})[request.node.nodeid] = counted
    for name, value in counted.items():
        request.node.user_properties.append((name, value))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash.get(_FIGURES, {})
    if figures:
        terminalreporter.section("figures")
    for test, counted in figures.items():
        terminalreporter.line(test)
        terminalreporter.line("    " + ", ".join(f"{name}: {value:,}" for name, value in counted.items()))
