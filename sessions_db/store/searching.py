"""Searching for text."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

from sessions_db import validation
from sessions_db.enums import SessionKind
from sessions_db.errors import InvalidInput
from sessions_db.limits import PAGE
from sessions_db.models import Message, SearchHit, SearchResult, Session
from sessions_db.operations import naming
from sessions_db.operations.history import history
from sessions_db.operations.selecting import Selection
from sessions_db.store.runner import Runner

_AROUND = 60

# How many of its newest messages each session of a page comes with: most sessions then need no statement of their own.
_MESSAGES_AT_FIRST = 20


class Searching(Runner):
    """Operations that find sessions by what people know of them, and messages by what they say."""

    def find_keys(self, name: str, limit: int = 10) -> list[str]:
        """The keys of the sessions that a person may mean.

        That is the one with this key; or else the one that owns this label; or else all whose keys end so, newest
        first. An empty list if there are none. To find those by their end, every key is read.

        Args:
            name: a key, a label, or the end of a key; not empty.
            limit: at most this many keys.
        """
        if not validation.text("name", name):
            raise InvalidInput("name", "must not be empty", name)
        return self._run(naming.named, name, validation.integer("limit", limit, minimum=0))

    def search(
        self,
        text: str,
        *,
        agent_id: str | Collection[str] | None = None,
        kinds: Collection[SessionKind | str] | None = None,
        since: datetime | None = None,
        limit: int = 50,
        timeout: float = 10.0,
    ) -> SearchResult:
        """Where the text occurs in labels, tasks and messages, live and archived, and how far the search came.

        The newest sessions come first, by `created_ms`; in a session its label, its task, then the newest messages.
        Upper and lower case are alike, by Unicode's full case folding, on both databases; no character is special. A
        redacted message is found by what it says since then. A page of 100 sessions with their newest 20 messages is
        one statement, each further page of 100 messages another: there is no index, so a search takes as long as
        reading what it reads.

        Args:
            text: what to find; not empty.
            agent_id: only in this agent's sessions, or these agents'; an empty collection matches nothing.
            kinds: only in sessions of these kinds; an empty collection matches nothing.
            since: only in sessions whose last activity is at this time, an aware datetime, or later.
            limit: stop after this many hits.
            timeout: stop after this many seconds. It is looked at after each page.
        """
        wanted = validation.text("text", text).casefold()
        if not wanted:
            raise InvalidInput("text", "must not be empty", text)
        selection = Selection(
            agent_ids=validation.optional_texts("agent_id", agent_id),
            kinds=validation.optional_choices("kinds", kinds, SessionKind),
            active_since_ms=validation.optional_moment_ms("since", since),
        )
        limit = validation.integer("limit", limit, minimum=0)
        deadline = time.monotonic() + validation.seconds("timeout", timeout)
        hits, read, last = list[SearchHit](), 0, None
        if not limit:
            return SearchResult(hits=(), sessions=0, complete=False, reached_ms=None)
        for session in self._pages(selection, _MESSAGES_AT_FIRST):
            read, last = read + 1, session
            for hit in self._hits(session, wanted):
                if hit is not None:
                    hits.append(hit)
                if len(hits) == limit or time.monotonic() >= deadline:
                    return SearchResult(hits=tuple(hits), sessions=read, complete=False, reached_ms=session.created_ms)
        return SearchResult(
            hits=tuple(hits), sessions=read, complete=True, reached_ms=None if last is None else last.created_ms
        )

    def _hits(self, session: Session, wanted: str) -> Iterator[SearchHit | None]:
        """The hits in a session; None after each page of messages and at the end, for the caller to watch the time."""
        for field, text in (("label", session.label), ("task", session.task)):
            if text is not None and (snippet := _snippet(text, wanted)) is not None:
                yield SearchHit(
                    session_key=session.key, field=field, seq=None, at_ms=session.created_ms, snippet=snippet
                )
        for page in self._messages(session):
            for message in reversed(page):
                if (snippet := _snippet(message.content, wanted)) is not None:
                    yield SearchHit(
                        session_key=session.key,
                        field="content",
                        seq=message.seq,
                        at_ms=message.timestamp_ms,
                        snippet=snippet,
                    )
            yield None
        yield None

    def _messages(self, session: Session) -> Iterator[Sequence[Message]]:
        """The session's messages in pages, the newest first, those of a page oldest first."""
        page: Sequence[Message] = session.messages
        is_last = session.message_count == len(page)
        if page:
            yield page
        while not is_last:
            older = self._run(
                history,
                session.key,
                limit=PAGE,
                include_tools=True,
                after_seq=None,
                before_seq=page[0].seq if page else None,
                archived=True,
            )
            page = older or ()
            yield page
            is_last = len(page) < PAGE


def _snippet(text: str, wanted: str) -> str | None:
    """The first occurrence with what is around it, or None; `wanted` is case-folded."""
    at = text.casefold().find(wanted)
    if at < 0:
        return None
    # Folding can lengthen a text ("ß" becomes "ss"), so positions are counted character by character.
    folded, first, end = 0, 0, len(text)
    for position, character in enumerate(text):
        if folded <= at:
            first = position
        if folded >= at + len(wanted):
            end = position
            break
        folded += len(character.casefold())
    start, stop = max(0, first - _AROUND), min(len(text), end + _AROUND)
    return ("…" if start else "") + text[start:stop] + ("…" if stop < len(text) else "")
