"""The way between one client and the database, with its latency and its faults.

A request that is on its way goes on even if its caller is cancelled or gives up. What is lost depends on the state of
the link when a message arrives, so a link cut at the right moment loses the answer to a request that was served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from etcdlock.errors import EtcdlockError, Unreachable
from etcdlock.testing.faults import Link

T = TypeVar("T")


class NoAnswer(Exception):
    """It was sent and no answer came. Never leaves the fakes: the store says what it means for each call."""


class Wire:
    """One client's link. `latency_seconds` is drawn once each way."""

    def __init__(self, *, name: str, latency_seconds: Callable[[], float], try_timeout_seconds: float) -> None:
        self.link = Link.UP
        self._name = name
        self.latency_seconds = latency_seconds
        self._try_timeout_seconds = try_timeout_seconds
        self._held: list[Callable[[], None]] = []

    def set_link(self, link: Link) -> None:
        """Up again, the database serves what it had taken while it hung, in order; refusing, it has lost that."""
        self.link = link
        if link in (Link.UP, Link.REFUSED):
            held, self._held = self._held, []
            for serve in held if link is Link.UP else ():
                serve()

    async def delay(self) -> None:
        """One way."""
        await asyncio.sleep(self.latency_seconds())

    async def exchange(self, serve: Callable[[], T]) -> T:
        """Let the database serve a request. Raises what `serve` raises, `NoAnswer`, or `Unreachable` if not sent."""
        if self.link is Link.REFUSED:
            await self.delay()
            raise Unreachable(f"{self._name}: connection refused")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        loop.call_later(self.latency_seconds(), self._arrive, serve, answer)
        try:
            async with asyncio.timeout(self._try_timeout_seconds):
                return await answer
        except TimeoutError:
            raise NoAnswer(f"{self._name}: no answer within {self._try_timeout_seconds:g} s") from None

    def _arrive(self, serve: Callable[[], T], answer: asyncio.Future[T]) -> None:
        match self.link:
            case Link.UP:
                self._serve(serve, answer)
            case Link.HUNG:
                self._held.append(lambda: self._serve(serve, answer))
            case Link.REFUSED:
                self._reset(answer)
            case Link.CUT:
                pass

    def _serve(self, serve: Callable[[], T], answer: asyncio.Future[T]) -> None:
        result: T | EtcdlockError
        try:
            result = serve()
        except EtcdlockError as refusal:
            result = refusal
        asyncio.get_running_loop().call_later(self.latency_seconds(), self._return, result, answer)

    def _return(self, result: T | EtcdlockError, answer: asyncio.Future[T]) -> None:
        if self.link is Link.REFUSED:
            self._reset(answer)
        elif self.link is Link.CUT or answer.done():
            return
        elif isinstance(result, EtcdlockError):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    def _reset(self, answer: asyncio.Future[T]) -> None:
        if not answer.done():
            answer.set_exception(NoAnswer(f"{self._name}: connection reset"))
