"""Whatever comes from one source, kept with the instants at which it came, so that one can wait for a certain thing.

What came before somebody asked for it is found too: nothing is missed between two waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from etcdlock.demo.timeline import now

T = TypeVar("T")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """Something, and when it was seen: never earlier than it happened."""

    at: float
    what: T


class Stream(Generic[T]):
    """Reads its source to the end, in the background."""

    def __init__(self, source: AsyncIterable[T], /) -> None:
        self.seen: list[Seen[T]] = []
        self._news = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read(source))

    async def first(self, wanted: Callable[[T], Found | None], /) -> Seen[Found] | None:
        """The first for which `wanted` returns something, with that; None if the source ended without it."""
        looked_at = 0
        while True:
            self._news.clear()
            ended = self._reading.done()
            for seen in self.seen[looked_at:]:
                if (found := wanted(seen.what)) is not None:
                    return Seen(seen.at, found)
            looked_at = len(self.seen)
            if ended:
                self._reading.result()
                return None
            await self._wait_for_news()

    async def ended(self) -> None:
        """Come back when the source has ended and everything of it is in `seen`."""
        await asyncio.shield(self._reading)

    async def close(self) -> None:
        """Read no more."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, source: AsyncIterable[T]) -> None:
        async for item in source:
            self.seen.append(Seen(now(), item))
            self._news.set()

    async def _wait_for_news(self) -> None:
        news = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait((news, self._reading), return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
