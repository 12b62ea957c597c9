"""Interleaved measuring, and what may be said of it; the clock is `time.perf_counter`.

A round does everything that is compared once or more, in turn, so that what slows the machine down for a while slows
all of it down. Within a round the median counts; a ratio is taken within each round, so drift between rounds is in
none. Before each thing there is a short pause, in which what the one before has left to do comes to an end. What is
reported is the median over the rounds, and the quartiles as its spread.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

PAUSE_SECONDS = 0.01

Once = Callable[[], Awaitable[float]]
"""Does it once and returns the seconds that count; what it takes to do and undo it besides is not in them."""

Rounds = Mapping[str, Sequence[float]]
"""For each thing measured, its median seconds in each round."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median over rounds, between its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], /) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def times(self, factor: float, /) -> Spread:
        return Spread(self.median * factor, self.low * factor, self.high * factor)


async def interleave(subjects: Mapping[str, Once], /, *, rounds: int, passes: int) -> Rounds:
    """Measure all of them, `passes` times a round each; the first round only warms up and is left out."""
    medians: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + 1):
        taken: dict[str, list[float]] = {name: [] for name in subjects}
        for _ in range(passes):
            for name, once in subjects.items():
                await asyncio.sleep(PAUSE_SECONDS)
                taken[name].append(await once())
        if number:
            for name, seconds in taken.items():
                medians[name].append(statistics.median(seconds))
    return medians


def seconds_of(rounds: Rounds, name: str, /) -> Spread:
    return Spread.of(rounds[name])


def ratio(rounds: Rounds, name: str, /, *, to: str) -> Spread:
    """How many times as long `name` takes as `to`."""
    return Spread.of([one / other for one, other in zip(rounds[name], rounds[to], strict=True)])
