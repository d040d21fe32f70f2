"""Items of OpenAI's Responses API: what a person reads of one, and which of them the API takes together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from sessions_db.enums import Role
from sessions_db.integrations.payloads import json_text

Item: TypeAlias = Mapping[str, Any]

_ROLES: Final = {
    "user": Role.USER,
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "mcp_approval_response": Role.USER,
}
# With names of their own. What other calls use is said by their type.
_NAMED: Final = ("function_call", "custom_tool_call", "mcp_call", "mcp_approval_request")
_OUTPUT, _CALL = "_output", "_call"
_EMITTED: Final = ("reasoning", "program", "mcp_approval_request", "mcp_list_tools")
_VALUES: Final = (
    *("arguments", "input", "code", "action", "actions", "operation", "queries", "revised_prompt", "approve"),
    *("error", "reason"),
)
_PARTS: Final = ("content", "summary", "output", "outputs", "results")
_TEXTS_OF_PARTS: Final = ("text", "refusal", "stdout", "stderr", "logs")


def role(item: Item) -> Role:
    """The role that the item has in the table: outputs are tool messages, what the model emitted the assistant's."""
    kind = _kind(item)
    if kind.endswith(_OUTPUT):
        return Role.TOOL
    said = item.get("role", kind)
    return _ROLES.get(said, Role.ASSISTANT) if isinstance(said, str) else Role.ASSISTANT


def text(item: Item) -> str:
    """What people read of the item, one text a line; images, files and what is encrypted are left out."""
    return "\n".join(filter(None, _texts(item)))


def tool_name(item: Item, names: Mapping[str, str]) -> str | None:
    """The tool of a call or an output.

    Args:
        item: any item.
        names: the tools of calls, by `call_id`: the outputs of functions do not name theirs.
    """
    kind = _kind(item)
    if kind.removesuffix(_OUTPUT) in _NAMED:
        name = item.get("name") or names.get(_text(item.get("call_id")))
        return name if isinstance(name, str) else None
    if kind.endswith((_OUTPUT, _CALL)):
        return kind.removesuffix(_OUTPUT).removesuffix(_CALL)
    return None


def names_of_tools(items: Sequence[Item]) -> dict[str, str]:
    """The tool of each call that has a `call_id`."""
    return {
        _text(item.get("call_id")): name
        for item in items
        if _emitted(item) and "call_id" in item and (name := tool_name(item, {}))
    }


def begins_turn(item: Item) -> bool:
    """Whether a history may start with the item: a question, an instruction, or what stands for all before it."""
    return item.get("role") in ("user", "system", "developer") or _kind(item) == "compaction"


def acceptable(items: Sequence[tuple[Item, bool]], *, cut: bool) -> list[Item]:
    """The items that the API takes together, of a history of which some are gone.

    It refuses outputs without their calls, items that it knows by their `id` to have followed a reasoning item that is
    not there, and reasoning items without what followed them.

    Args:
        items: each with whether it is as it was; False for those that stand in another's place.
        cut: whether the first items are gone.
    """
    first = next((at for at, (item, _) in enumerate(items) if begins_turn(item)), 0) if cut else 0
    items = items[first:]
    given = {""}  # what names nothing needs nothing
    kept = []
    # A response of which something is gone may have lost the reasoning item that the rest belongs to.
    torn = cut
    for item, whole in items:
        torn = torn and _emitted(item) and _kind(item) != "reasoning"
        kept.append(not (torn and item.get("id")) and given.issuperset(_needed(item)))
        if kept[-1]:
            given.update(_given(item))
        torn = torn or not whole
    followed = False
    for at in reversed(range(len(kept))):
        item, whole = items[at]
        if _kind(item) == "reasoning":
            kept[at] = kept[at] and followed
        else:
            followed = kept[at] and whole and _emitted(item)
    return [item for (item, _), taken in zip(items, kept, strict=True) if taken]


def _kind(item: Item) -> str:
    return _text(item.get("type"))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _emitted(item: Item) -> bool:
    """Whether the item is part of a response of the model's."""
    kind = _kind(item)
    # A search that the API made by itself has no call_id.
    by_itself = kind == "tool_search_output" and not item.get("call_id")
    return item.get("role") == "assistant" or kind.endswith(_CALL) or kind in _EMITTED or by_itself


def _needed(item: Item) -> Iterator[str]:
    """The ids without which the API refuses the item."""
    kind = _kind(item)
    if kind == "mcp_approval_response":
        yield _text(item.get("approval_request_id"))
    elif kind.endswith(_OUTPUT) and not _emitted(item):
        # A local shell's has its call's in this field.
        yield _text(item.get("call_id")) or (_text(item.get("id")) if kind.startswith("local_shell") else "")
    caller = item.get("caller")
    if isinstance(caller, Mapping) and caller.get("type") == "program":
        yield _text(caller.get("caller_id"))


def _given(item: Item) -> Iterator[str]:
    if _emitted(item):
        yield _text(item.get("call_id"))
        yield _text(item.get("id"))


def _texts(item: Item) -> Iterator[str]:
    for field in _VALUES:
        if (value := item.get(field)) is not None:
            yield value if isinstance(value, str) else json_text(value, ascii_only=False)
    for field in _PARTS:
        value = item.get(field)
        if isinstance(value, str):
            yield value
        elif isinstance(value, Sequence):
            yield from (
                _text(part.get(name)) for part in value if isinstance(part, Mapping) for name in _TEXTS_OF_PARTS
            )
    # The other results are images.
    if _kind(item) == "program_output":
        yield _text(item.get("result"))
