"""A host's clock on virtual time, which may run fast or slow and may jump.

It keeps the promises of `Clock`: it never goes back, and a sleep never ends before its time on this very clock. It must
be used inside `run_virtual`.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from etcdlock.testing.bell import Bell

WALL_AT_START = datetime(2026, 1, 1, tzinfo=UTC)
# What a sleep goes on for when rounding woke it a trace too early: any positive time that a float can add.
ROUNDING_SECONDS = 1e-6


class FakeClock:
    """`now()` is `offset + rate * virtual time`, plus what was jumped."""

    def __init__(self, rate: float = 1.0, *, offset: float = 0.0) -> None:
        if rate <= 0:
            raise ValueError(f"a clock runs forward: rate {rate!r}")
        self._rate = rate
        self._offset = offset
        self._jumped = Bell()
        self._steered = 0.0
        self._wall_error = timedelta()

    def now(self) -> float:
        return self._offset + self._rate * asyncio.get_running_loop().time()

    async def sleep(self, seconds: float, /) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        wake_at = self.now() + seconds
        while (left := wake_at - self.now()) > 0:
            await self._jumped.wait(limit_seconds=max(left, ROUNDING_SECONDS) / self._rate)

    def jump(self, seconds: float) -> None:
        """As if the host had been suspended: its clock ran on, and sleepers whose time has come wake at once."""
        if seconds < 0:
            raise ValueError(f"this clock is never set back: {seconds!r}")
        self._offset += seconds
        self._jumped.ring()

    def steer(self, rate_error: float) -> None:
        """As if a time daemon ran the host's other clock at another rate."""
        self._steered = rate_error

    def rate_error(self) -> float:
        return self._steered

    def wall(self) -> datetime:
        """True time until it is set: neither rate nor offset nor jumps bend it."""
        return WALL_AT_START + timedelta(seconds=asyncio.get_running_loop().time()) + self._wall_error

    def set_wall(self, error_seconds: float) -> None:
        """As if somebody had set the host's time of day, so many seconds ahead of true time or behind it."""
        self._wall_error = timedelta(seconds=error_seconds)
