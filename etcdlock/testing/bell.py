"""A bell that wakes everyone who waits at that moment, in the order in which they began to wait.

A ring is not remembered: who comes later waits for its next ring. Waiters read the state again after each wake.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Bell:
    """Something has changed: look again."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, *, limit_seconds: float | None = None) -> None:
        """Come back when the bell rings next, or when the limit has passed."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_seconds):
                    await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
