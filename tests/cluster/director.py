"""Puts faults into a scene, one after the other, and lets it come to rest in between; the order is drawn from a seed.

Everybody gets a turn before anybody gets another. Beside some faults a second one is put in at the same time: then
nothing is promised but what always holds.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from etcdlock.demo.timeline import now
from tests.cluster.catalogue import FAULTS
from tests.cluster.cluster import Scene
from tests.cluster.fault import Fault, Scale, Victims

BESIDE: Final = ("session revoked", "agent killed", "guard killed", "agent and guard killed", "agent stopped, shortly")
"""What may be put in beside another: it acts on one host alone."""
_NEEDS_ETCD: Final = "session revoked"
_STOPS_ETCD: Final = ("members cut off from each other", "all members stopped", "all members killed")
"""Beside these an operator has nobody to ask."""
_BESIDE_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Blow:
    """A fault that was put in. `spares` says whether it was promised that no guest stops for it."""

    fault: Fault
    host: str
    begun_at: float
    ended_at: float
    spares: bool
    is_alone: bool = True

    def __str__(self) -> str:
        where = f" ({self.host})" if self.host else ""
        return f"{self.fault.name}{where}, {self.ended_at - self.begun_at:.1f} s"


@dataclass(slots=True)
class Director:
    """Of one scene."""

    scene: Scene
    chance: random.Random
    quiet: bool = False
    blows: list[Blow] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def put_in(self, fault: Fault, /, *, beside: Fault | None = None) -> None:
        """One, and what else at the same time; then the rest.

        The first is undone first: what is beside it may have to wait until hosts are well again.

        Guests are moved about meanwhile, but not where a takeover is to be measured: what breaks off a migration ends
        its guest as well, and nobody could say for what it was stopped.
        """
        scale = Scale(self.scene.timing)
        is_calm = self.scene.orders.calm.is_set()
        if fault.takes_over and beside is None and not is_calm:
            self.scene.orders.calm.set()
            self.scene.wait_until_at_rest()
        begun_at, hosts, together = now(), [], [each for each in (fault, beside) if each is not None]
        with ExitStack() as undone_last, ExitStack() as undone_first:
            for each, undo in zip(together, (undone_first, undone_last), strict=False):
                seconds = each.seconds(scale, self.chance)
                victims = Victims(self.scene, self.chance, seconds, self.stop)
                hosts.append(undo.enter_context(each.act(victims)))
                victims.last()
        ended_at = now()
        is_alone = beside is None
        for each, host in zip(together, hosts, strict=True):
            spares = is_alone and each.spares(scale, lasted_seconds=ended_at - begun_at)
            self.blows.append(Blow(each, host, begun_at, ended_at, spares, is_alone))
            self._tell(self.blows[-1])
        if not is_calm:
            self.scene.orders.calm.clear()
        self.scene.wait_until_at_rest()

    def _tell(self, blow: Blow) -> None:
        if not self.quiet:
            print(f"  {now():10.1f}  {blow}", file=sys.stderr, flush=True)


def endless(chance: random.Random, /) -> Iterator[tuple[Fault, Fault | None]]:
    """Rounds of all faults, each in another order, some with another one beside."""
    while True:
        faults = list(FAULTS.values())
        chance.shuffle(faults)
        for fault in faults:
            beside = chance.choice(BESIDE) if chance.random() < _BESIDE_SHARE else ""
            can_be = beside and not (beside == _NEEDS_ETCD and fault.name in _STOPS_ETCD)
            yield fault, FAULTS[beside] if can_be else None
