"""JSON objects and lists that can't be changed: metadata within values that are frozen."""

from __future__ import annotations

from typing import Any, Final, NoReturn


class FrozenDict(dict[str, Any]):
    """A dict that can't be changed and can be hashed. `json` and `pickle` take it; `dict(…)` and `|` make a plain one.

    A dict all the same, and no `MappingProxyType`, so that it can be written as JSON and compared with one.
    """

    __slots__ = ()

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, Any]]]:
        return FrozenDict, (dict(self),)


class FrozenList(list[Any]):
    """A list that can't be changed and can be hashed. `json` and `pickle` take it; `list(…)` makes a plain one."""

    __slots__ = ()

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self))

    def __reduce__(self) -> tuple[type[FrozenList], tuple[list[Any]]]:
        return FrozenList, (list(self),)


def _refuse(*_args: object, **_kwargs: object) -> NoReturn:
    raise TypeError("metadata in a snapshot can't be changed: change a copy, such as to_dict() makes")


_CHANGING: Final = {
    FrozenDict: "__setitem__ __delitem__ __ior__ clear pop popitem setdefault update",
    FrozenList: "__setitem__ __delitem__ __iadd__ __imul__ append clear extend insert pop remove reverse sort",
}
for _kind, _methods in _CHANGING.items():
    for _method in _methods.split():
        setattr(_kind, _method, _refuse)


def with_frozen_lists(members: dict[str, Any]) -> FrozenDict:
    """The object with these members, of which objects are frozen already and lists are not."""
    made = FrozenDict(members)
    for name, value in members.items():
        if type(value) is list:
            dict.__setitem__(made, name, _frozen_list(value))
    return made


def _frozen_list(items: list[Any]) -> FrozenList:
    return FrozenList([_frozen_list(item) if type(item) is list else item for item in items])


def thawed(value: Any) -> Any:
    """A copy of a JSON value that can be changed."""
    if isinstance(value, dict):
        return {name: thawed(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [thawed(item) for item in value]
    return value
