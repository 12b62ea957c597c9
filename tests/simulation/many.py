"""Plays schedules in several processes. Each schedule stands alone, so it does not matter who plays it.

Nothing of the package is imported here before a fault was planted, if one is.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tests.simulation.mutants import MUTANTS
from tests.simulation.planting import plant

if TYPE_CHECKING:
    from tests.simulation.play import Played

AT_ONCE = 10
NICENESS = 10


def prepare(planted: str) -> None:
    """Once a process, before anything is played. `planted` names a fault, "" none. Whatever else runs goes first."""
    os.nice(NICENESS)
    logging.disable()
    if planted:
        plant(next(mutant for mutant in MUTANTS if mutant.name == planted))


def play_many(seeds: Iterable[int], *, jobs: int, planted: str = "") -> Iterator[Played]:
    """In the order in which they are done; without their histories."""
    context = multiprocessing.get_context("spawn")  # a forked one would inherit what was imported and opened
    with context.Pool(jobs, initializer=prepare, initargs=(planted,)) as pool:
        yield from pool.imap_unordered(_play, seeds, chunksize=AT_ONCE)


def _play(seed: int) -> Played:
    from tests.simulation.play import play

    return play(seed)
