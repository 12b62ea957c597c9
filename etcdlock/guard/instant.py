"""The instant that all processes of this host agree on, without talking to each other.

`steady_seconds` = CLOCK_MONOTONIC_RAW + (CLOCK_BOOTTIME - CLOCK_MONOTONIC).

- It is a function of the kernel's clocks alone: an instant taken by one process means the same in another.
- It runs on while the host is suspended: the bracket is exactly the time spent suspended, since the two clocks in it
  are steered together.
- Nobody can steer it: CLOCK_BOOTTIME itself is slowed down and sped up by time daemons, chrony by up to 8 %, far more
  than a deadline allows for. Sped up is no safer than slowed down: it is the wrong direction for whoever waits out a
  silence.

What is left is the error of the host's oscillator. As a second opinion every reading carries CLOCK_BOOTTIME: the guard
lets the one that moved more since a proof arrived count. Not covered: a host that is itself a paused virtual machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

_TRIES = 5
_CLOSE_ENOUGH_NS = 20_000


@dataclass(frozen=True, slots=True)
class Reading:
    """Both clocks at one moment."""

    steady_seconds: float
    boot_seconds: float


def read() -> Reading:
    """Read the clocks."""
    suspended_ns = _suspended_ns()
    steady_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) + suspended_ns
    return Reading(steady_ns / 1e9, time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e9)


def _suspended_ns() -> int:
    """Time spent suspended since boot.

    The two clocks cannot be read at once: whatever comes between the reads looks like suspension. So the tightest of a
    few tries counts; a process that is stopped between them costs one try, not a wrong clock.
    """
    best_gap_ns, best_suspended_ns = None, 0
    for _ in range(_TRIES):
        before_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        gap_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - before_ns
        if best_gap_ns is None or gap_ns < best_gap_ns:
            best_gap_ns, best_suspended_ns = gap_ns, max(boot_ns - before_ns - gap_ns, 0)
        if gap_ns < _CLOSE_ENOUGH_NS:
            break
    return best_suspended_ns
