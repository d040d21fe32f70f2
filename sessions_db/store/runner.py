"""What all operations have in common: who runs them, and the defaults of new sessions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ParamSpec, TypeVar

from sessions_db import validation
from sessions_db.enums import SessionKind
from sessions_db.limits import PAGE, PLACES
from sessions_db.models import Message, NewSession, Session
from sessions_db.operations import reading
from sessions_db.operations.appending import append
from sessions_db.operations.appending_together import Append
from sessions_db.operations.operation import Operation
from sessions_db.operations.selecting import Selection
from sessions_db.validation import JsonValue

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Runner(ABC):
    """Runs operations on a connection that meets their needs."""

    def __init__(self, *, message_cap: int, archive_trimmed: bool, actor: str | None) -> None:
        self._message_cap = validation.message_cap(message_cap)
        self._archive_trimmed = validation.flag("archive_trimmed", archive_trimmed)
        self._actor = validation.optional_nonempty_name("actor", actor)

    @abstractmethod
    def _run(self, operation: Operation[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T: ...

    def _new(
        self,
        agent_id: str,
        kind: SessionKind,
        task: str | None,
        label: str | None,
        parent_key: str | None,
        metadata: Mapping[str, JsonValue] | None,
        message_cap: int | None,
        archive_trimmed: bool | None,
    ) -> NewSession:
        return NewSession(
            agent_id=agent_id,
            kind=kind,
            task=task,
            label=label,
            parent_key=parent_key,
            metadata=metadata,
            message_cap=self._message_cap if message_cap is None else message_cap,
            archive_trimmed=self._archive_trimmed if archive_trimmed is None else archive_trimmed,
        )

    def _pages(self, selection: Selection, message_limit: int) -> Iterator[Session]:
        """The sessions, newest first, in pages of a call each."""
        last = None
        while True:
            page = self._run(reading.page, selection, before=last, limit=PAGE, message_limit=message_limit)
            yield from page
            if len(page) < PAGE:
                return
            last = page[-1]
            # Beside another filter, an index mostly has them in this order.
            if selection.key_prefix is not None and selection == Selection(key_prefix=selection.key_prefix):
                yield from self._pages_of_places(selection, last, message_limit)
                return

    def _pages_of_places(self, selection: Selection, last: Session, message_limit: int) -> Iterator[Session]:
        """The sessions after this one, as `_pages` returns them: without sorting all that are left for each page."""
        before: Session | reading.Place = last
        while places := self._run(reading.places, selection, before=before, limit=PLACES):
            for start in range(0, len(places), PAGE):
                some = Selection(keys=[place.key for place in places[start : start + PAGE]])
                yield from self._run(reading.page, some, before=None, limit=PAGE, message_limit=message_limit)
            before = places[-1]

    def _append(self, new: Append) -> list[Message]:
        stored = self._run(append, new)
        self._appended(new.key)
        return stored

    def _appended(self, key: str) -> None:  # noqa: B027  # not everybody has to tell
        """Tell those who wait: messages were appended to the session."""

    def _ended(self, key: str) -> None:  # noqa: B027
        """Tell those who wait: the session has ended, or was deleted."""
