"""The ladder: what is to be done about one guest at one instant.

Pure, and standard library only: the guard process runs this very rule without the rest of the package, so that the
guard and the program that started the guest can never disagree about it. It never answers NONE for a living guest past
`stop_at`, however late it is asked. Which clock the instants are from is the caller's business, as long as it is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Step(Enum):
    """What to do now. The rungs only go up as time passes."""

    NONE = "none"
    KILL = "kill"
    REPORT_STUCK = "report stuck"    # go on killing, and say that it has not helped in time


@dataclass(frozen=True, slots=True)
class Deadline:
    """`stop_at_seconds`: nothing may run from here on; `stuck_at_seconds`: it should have been dead by now."""

    stop_at_seconds: float
    stuck_at_seconds: float


def step(now_seconds: float, *, deadline: Deadline, alive: bool) -> Step:
    """The rung for a guest of which anything lives (`alive`) or nothing."""
    if not alive or now_seconds < deadline.stop_at_seconds:
        return Step.NONE
    if now_seconds < deadline.stuck_at_seconds:
        return Step.KILL
    return Step.REPORT_STUCK
