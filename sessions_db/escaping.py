"""Which characters of a stored text are shown as escapes, because they could make what shows them lie."""

from __future__ import annotations

import re
from typing import Final

UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters except tab and newline, line separators, and what changes the direction of text."""


def escape(character: str) -> str:
    r"""The character as an escape such as `\x1b` or `\u202e`."""
    return character.encode("unicode_escape").decode()


def printable(text: str) -> str:
    """The text with everything unsafe escaped."""
    return UNSAFE.sub(lambda found: escape(found[0]), text)


def safe_json(text: str) -> str:
    r"""The same JSON with everything unsafe as a `\u` escape."""
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
