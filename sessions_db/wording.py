"""Words for what is shown to people, on a terminal and in a browser."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """The number and what it counts: "1 session", "2,000 sessions"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
