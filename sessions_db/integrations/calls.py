"""The calls of tools in a message's metadata, in the forms in which model APIs and agent frameworks store them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sessions_db.integrations.payloads import found_in
from sessions_db.models import Message
from sessions_db.validation import JsonValue

_WITHIN = ("function", "function_call", "functionCall")
# Not a set: what agents store under these names need not be hashable.
_TYPES = ("function", "function_call", "tool_call", "tool_use", "tool-call")
_NAMES = ("name", "tool_name")
_ARGUMENTS = ("arguments", "args", "input")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The name of the tool, and its arguments: an object, or the text that was to be one."""

    name: str
    arguments: JsonValue

    def __str__(self) -> str:
        """As in a program: `search(query="flights", limit=3)`."""
        if self.arguments is None:
            return f"{self.name}()"
        if not isinstance(self.arguments, Mapping):
            return f"{self.name}({_text(self.arguments)})"
        return f"{self.name}({', '.join(f'{name}={_text(value)}' for name, value in self.arguments.items())})"


def tool_calls(message: Message) -> list[ToolCall]:
    """The calls that the message asks for, in their order.

    They are found by their form wherever they are in the metadata: chat completions, the APIs of OpenAI, Anthropic and
    Google, and what the adapters of this package keep.
    """
    return calls_in(message.metadata)


def calls_in(metadata: JsonValue) -> list[ToolCall]:
    """The calls in a message's metadata, likewise."""
    return [*found_in(metadata, _call)]


def _call(value: Mapping[str, JsonValue]) -> ToolCall | None:
    # OpenAI's chat completions and Google's parts have the call in an object of its own.
    inner = next((each for name in _WITHIN if isinstance(each := value.get(name), Mapping)), None)
    if inner is None and not any(value.get(name) in _TYPES for name in ("type", "part_kind")):
        return None
    found = value if inner is None else inner
    name = next((each for name in _NAMES if isinstance(each := found.get(name), str)), None)
    given = [found[each] for each in _ARGUMENTS if each in found]
    return ToolCall(name, _parsed(given[0])) if name is not None and given else None


def _parsed(arguments: JsonValue) -> JsonValue:
    if not isinstance(arguments, str):
        return arguments
    try:
        parsed: JsonValue = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _text(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False)
