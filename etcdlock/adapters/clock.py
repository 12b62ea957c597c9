"""This host's clock, as `ports.Clock`.

`now` is the steady instant of `etcdlock.guard.instant`: the same in every process of this host, not steered by time
daemons, running on while the host is suspended. `sleep` may lag a suspension by no more than one of its chunks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime

from etcdlock.guard import instant

# Timers of the event loop stand still during a suspend: after one, a sleep is late by at most this.
_CHUNK_SECONDS = 0.5
_RATE_WINDOW_SECONDS = 10.0


class BootClock:
    """The kernel's clocks behind `ports.Clock`."""

    def __init__(self, *, pair: Callable[[], tuple[float, float]] | None = None) -> None:
        self._pair = pair or _pair
        self._mark = self._pair()
        self._rate_error = 0.0

    def now(self) -> float:
        return instant.read().steady_seconds

    async def sleep(self, seconds: float, /) -> None:
        wake_at = self.now() + seconds
        while (left := wake_at - self.now()) > 0:
            await asyncio.sleep(min(left, _CHUNK_SECONDS))
        if seconds <= 0:
            await asyncio.sleep(0)

    def wall(self) -> datetime:
        return datetime.now().astimezone()

    def rate_error(self) -> float:
        """How much faster (> 0) or slower the steered clock runs than the steady one; 0.001 is one part in a thousand.

        Over the last whole window of ten seconds or more between calls; 0 before the first. One of the two is wrong by
        at least half of it; more than the timing contract's clock rate error is a reason to acquire nothing new.
        """
        steered, raw = self._pair()
        if (passed := raw - self._mark[1]) >= _RATE_WINDOW_SECONDS:
            self._rate_error = (steered - self._mark[0] - passed) / passed
            self._mark = (steered, raw)
        return self._rate_error


def _pair() -> tuple[float, float]:
    """The steered and the raw clock; neither counts suspension."""
    return time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_MONOTONIC_RAW)
