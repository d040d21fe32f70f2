"""How much the reliability tests do, and the figures that they print at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.full)], ids=["quick", "full"])
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the test runs at the scale of the figures in the docs, which only `pytest -m full` does."""
    return bool(request.param)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Named counts that are shown when all tests are done, those of a failed test too."""
    counted: Counter[str] = Counter()
    yield counted
    for name, value in counted.items():
        request.node.user_properties.append((name, value))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    # What a test or the fixture above has noted is complete after its teardown.
    noted = [report for report in reports if getattr(report, "when", None) == "teardown" and report.user_properties]
    if noted:
        terminalreporter.section("figures")
    for report in noted:
        terminalreporter.line(report.nodeid)
        terminalreporter.line("    " + ", ".join(f"{name}: {value:,}" for name, value in report.user_properties))
