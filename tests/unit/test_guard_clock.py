"""The host's clock: one clock for all its processes, and a second opinion on its rate."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

from etcdlock.adapters.clock import BootClock


class Pair:
    """The steered and the raw clock, in a test's hand."""

    def __init__(self) -> None:
        self.steered, self.raw = 1000.0, 5000.0

    def __call__(self) -> tuple[float, float]:
        return self.steered, self.raw

    def pass_seconds(self, seconds: float, *, rate: float) -> None:
        self.raw += seconds
        self.steered += seconds * rate


def test_a_steered_clock_shows_by_its_rate_after_ten_seconds_and_until_it_runs_true_again() -> None:
    pair = Pair()
    clock = BootClock(pair=pair)
    pair.pass_seconds(9.0, rate=1.08)
    assert clock.rate_error() == 0.0
    pair.pass_seconds(2.0, rate=1.08)
    assert clock.rate_error() == pytest.approx(0.08)
    pair.pass_seconds(5.0, rate=0.92)
    assert clock.rate_error() == pytest.approx(0.08), "a window is taken whole"
    pair.pass_seconds(6.0, rate=0.92)
    assert clock.rate_error() == pytest.approx(-0.08)
    pair.pass_seconds(10.0, rate=1.0)
    assert clock.rate_error() == pytest.approx(0.0)


def test_the_clock_counts_from_the_hosts_boot_and_never_goes_back_by_more_than_its_grain() -> None:
    clock = BootClock()
    assert clock.now() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), rel=0.01)
    readings = [clock.now() for _ in range(2000)]
    assert all(after > before - 0.001 for before, after in pairwise(readings))


def test_a_sleep_never_ends_early() -> None:
    clock = BootClock()

    async def scenario() -> float:
        begun = clock.now()
        await clock.sleep(0.05)
        return clock.now() - begun

    assert asyncio.run(scenario()) >= 0.05
