"""What schedules are about: each theme brings one kind of trouble about often, at the moments at which it hurts most.

Every theme draws its places, moments and lengths from the schedule's own chance. `chaos` and `crowd` know no plan.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

from tests.simulation.drama import Drama
from tests.simulation.themes_of_etcd import chaos, crowd, late_acquire, lost_answers, operators, outages, sharing
from tests.simulation.themes_of_hosts import (
    deadline,
    guards,
    reset,
    stale_leader,
    stall_before_yes,
    stolen_disk,
    twins,
    watchdog,
)
from tests.simulation.themes_of_migrations import handed_back, late_destination, switch_over, three_claim, unasked

Theme = Callable[[Drama], Awaitable[None]]

THEMES: dict[Theme, int] = {
    deadline: 8, stale_leader: 6, switch_over: 10, three_claim: 5, late_destination: 6, handed_back: 5,
    lost_answers: 8, late_acquire: 8, stall_before_yes: 7, stolen_disk: 9, reset: 6, twins: 5, guards: 8, watchdog: 7,
    operators: 6, unasked: 6, outages: 4, sharing: 4, chaos: 10, crowd: 5,
}  # fmt: skip
"""Each theme and how often it comes, in parts."""


def theme_of(seed: int) -> Theme:
    """By the seed alone."""
    chance = random.Random(f"theme {seed}")  # noqa: S311 - must be repeatable
    return chance.choices(tuple(THEMES), weights=tuple(THEMES.values()))[0]
