"""The canonical form of what is sealed, and the digests over it: SHA-256, written in lower-case hexadecimal.

A row is written as the JSON array of its columns, in UTF-8, without spaces, in the order of its table; metadata is the
stored text as a JSON string. So equal rows have equal digests on every database, and any program with JSON and SHA-256
can compute them. Many digests become one in two ways: as lines, where all of them are at hand, and as a Merkle tree
(RFC 9162, section 2.1), where it must be possible to show that one is among them without the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FIRST: Final = "0" * 64
"""Stands for the digest before the first one of a chain."""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def row_digest(columns: Iterable[object]) -> str:
    """The digest of a row, given the values of its columns."""
    return hashlib.sha256(_encode([*columns]).encode()).hexdigest()


def own_digest(row: DataclassInstance) -> str:
    """The digest of a row whose last column is to hold it, over the others."""
    *columns, _ = astuple(row)
    return row_digest(columns)


class Lines:
    """The digest over lines, of which there may be many: each is some values with spaces between, and a line feed."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.length = 0

    def add(self, *values: object) -> None:
        """Go on with this line."""
        self._hash.update(f"{' '.join(map(str, values))}\n".encode())
        self.length += 1

    def digest(self) -> str:
        """The digest over the lines so far."""
        return self._hash.hexdigest()


def lines_digest(lines: Iterable[Iterable[object]]) -> str:
    """The digest over these lines, each given as its values."""
    over = Lines()
    for line in lines:
        over.add(*line)
    return over.digest()


class Tree:
    """The Merkle tree over these digests."""

    def __init__(self, leaves: Iterable[str]) -> None:
        level = [_leaf(leaf) for leaf in leaves]
        self.length = len(level)
        self._levels = [level]
        while len(level) > 1:
            pairs = zip(level[::2], level[1::2], strict=False)
            # A node without a neighbour goes up as it is.
            level = [*(_node(left, right) for left, right in pairs), *(level[-1:] if len(level) % 2 else [])]
            self._levels.append(level)

    def root(self) -> str:
        """The digest over all of them; that of nothing if there is none."""
        *_, top = self._levels
        return top[0].hex() if top else hashlib.sha256().hexdigest()

    def position(self, leaf: str) -> int:
        """Where this digest is among them."""
        return self._positions[_leaf(leaf)]

    @cached_property
    def _positions(self) -> dict[bytes, int]:
        return {node: position for position, node in enumerate(self._levels[0])}

    def path(self, position: int) -> list[str]:
        """What `root_over` needs to get from the digest at this position to the root: few, however many there are."""
        path = []
        for level in self._levels[:-1]:
            if (neighbour := position ^ 1) < len(level):
                path.append(level[neighbour].hex())
            position //= 2
        return path


def root_over(leaf: str, position: int, length: int, path: Sequence[str]) -> str | None:
    """The root of a tree of that length with this digest at that position; None if no path could be like this one."""
    if not 0 <= position < length:
        return None
    node = _leaf(leaf)
    rest = [bytes.fromhex(each) for each in path]
    while length > 1:
        if position ^ 1 < length:
            if not rest:
                return None
            other = rest.pop(0)
            node = _node(other, node) if position % 2 else _node(node, other)
        position, length = position // 2, (length + 1) // 2
    return None if rest else node.hex()


def _leaf(digest: str) -> bytes:
    return hashlib.sha256(b"\0" + bytes.fromhex(digest)).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
