"""The journal's events for whoever follows them over HTTP, as server-sent events.

Each has an id by which a reader that comes back goes on where it was (`Last-Event-ID`), as far as that is still kept.
What it has missed, by being too slow or away for too long, is said by an event of its own, `dropped`: how many, or null
where another program of this host gave out the id. A comment every few seconds keeps the connection from looking dead.

A reader that reads nothing costs the socket's buffer and its place in the journal, and holds up nobody.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse

from etcdlock.journal import JOURNAL, Event, Follower, Journal

KEEP_ALIVE_SECONDS = 15.0
DROPPED = "dropped"


class Feed:
    """A journal for HTTP. `end` it before the server closes, which would wait for its readers."""

    def __init__(self, journal: Journal = JOURNAL, /, *, keep_alive_seconds: float = KEEP_ALIVE_SECONDS) -> None:
        self._journal = journal
        self._keep_alive_seconds = keep_alive_seconds
        self._followers: set[Follower] = set()
        self._ended = False

    def router(self) -> APIRouter:
        """`GET /v1/events`."""
        routes = APIRouter()

        @routes.get("/v1/events", summary="What happens, as it happens", response_class=StreamingResponse)
        async def events(last_event_id: Annotated[str | None, Header()] = None) -> StreamingResponse:
            """Server-sent events, from now on or from behind the id given as Last-Event-ID, until the agent ends."""
            told = self.stream(last_event_id)
            return StreamingResponse(told, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

        return routes

    def end(self) -> None:
        """Every reader is told what is left, and that this is the end."""
        self._ended = True
        for follower in self._followers:
            follower.end()

    async def stream(self, last_event_id: str | None = None, /) -> AsyncIterator[str]:
        """The body, piece by piece; a reader that does not take one is not waited for by the journal."""
        after = _place(self._journal, last_event_id)
        is_strange = bool(last_event_id) and after is None
        follower = self._journal.follow(after=0 if is_strange else after)
        if self._ended:
            follower.end()
        self._followers.add(follower)
        try:
            yield ": follow\n\n"
            async for piece in self._pieces(follower, is_strange=is_strange):
                yield piece
        finally:
            self._followers.discard(follower)

    async def _pieces(self, follower: Follower, /, *, is_strange: bool) -> AsyncIterator[str]:
        told = 0
        while True:
            try:
                async with asyncio.timeout(self._keep_alive_seconds):
                    event = await anext(follower)
            except TimeoutError:
                yield ": alive\n\n"
                continue
            except StopAsyncIteration:
                return
            if is_strange or follower.dropped > told:
                missed = None if is_strange else follower.dropped - told
                yield _frame(_id(self._journal, event.number - 1), DROPPED, {"events": missed})
                is_strange, told = False, follower.dropped
            yield _frame(_id(self._journal, event.number), event.name, _said(event))


def _said(event: Event, /) -> dict[str, Any]:
    return {"at": event.at.isoformat(timespec="milliseconds"), "level": event.level_name, "fields": dict(event.fields)}


def _frame(identity: str, name: str, content: dict[str, Any], /) -> str:
    """JSON has no line ends of its own, so one line of content it is."""
    return f"id: {identity}\nevent: {name}\ndata: {json.dumps(content)}\n\n"


def _id(journal: Journal, number: int, /) -> str:
    return f"{journal.name}-{number}"


def _place(journal: Journal, last_event_id: str | None, /) -> int | None:
    """The number that an id of this journal's stands for."""
    name, _, number = (last_event_id or "").rpartition("-")
    return int(number) if name == journal.name and number.isdecimal() and len(number) < 20 else None
