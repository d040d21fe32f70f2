"""The messages that every store is given: real ones from a file of conversations, or generated ones of that shape."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

_SEED = 20_260_101


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """A message in the shape of the chat-completions API; `content` is never None."""

    role: str
    content: str
    tool_name: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None

    @property
    def metadata(self) -> dict[str, Any] | None:
        """What this library stores as metadata: everything but the text and the tool's name."""
        found: dict[str, Any] = {}
        if self.tool_calls:
            found["tool_calls"] = list(self.tool_calls)
        if self.tool_call_id is not None:
            found["tool_call_id"] = self.tool_call_id
        return found or None

    @property
    def metadata_json(self) -> str | None:
        """The metadata as this library stores it."""
        return None if self.metadata is None else json.dumps(self.metadata, ensure_ascii=False)

    def calls(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """The id, name and arguments of each tool call."""
        for call in self.tool_calls:
            function = call["function"]
            yield call["id"], function["name"], json.loads(function["arguments"])

    def to_dict(self) -> dict[str, Any]:
        """The message as the chat-completions API has it."""
        found: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_name is not None:
            found["name"] = self.tool_name
        return found | (self.metadata or {})


def load(path: Path | None, number: int) -> list[ChatMessage]:
    """The first messages of the file's conversations, in order; without a file, generated ones.

    The file has one JSON object per line, whose `messages` are in the shape of the chat-completions API.
    """
    return [*islice(_generated() if path is None else _in_file(path), number)]


def _in_file(path: Path) -> Iterator[ChatMessage]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            for message in json.loads(line)["messages"]:
                is_tool = message["role"] == "tool"
                yield ChatMessage(
                    role=message["role"],
                    content=message.get("content") or "",
                    tool_name=message.get("name") if is_tool else None,
                    tool_calls=tuple(message.get("tool_calls") or ()),
                    tool_call_id=message.get("tool_call_id") if is_tool else None,
                )


def _generated() -> Iterator[ChatMessage]:
    """Turns of a question, a tool call, its result and an answer, about as long as real ones."""
    chance = random.Random(_SEED)
    words = ["please", "book", "the", "flight", "to", "Seattle", "for", "two", "with", "one", "bag", "and", "a", "seat"]

    def text(least: int, most: int) -> str:
        return " ".join(chance.choices(words, k=chance.randint(least, most)))

    for turn in count(1):
        call_id = f"call_{chance.getrandbits(96):024x}"
        arguments = json.dumps({"user_id": f"user_{chance.randint(1000, 9999)}", "query": text(2, 6)})
        call = {"id": call_id, "type": "function", "function": {"name": "search_flights", "arguments": arguments}}
        yield ChatMessage("user", text(5, 60))
        yield ChatMessage("assistant", "", tool_calls=(call,))
        result = json.dumps([{"flight": f"HAT{number:03}", "note": text(5, 30)} for number in range(turn % 8)])
        yield ChatMessage("tool", result, tool_name="search_flights", tool_call_id=call_id)
        yield ChatMessage("assistant", text(10, 120))
