"""What a fault is: how it is done, how long it lasts, and what etcdlock promises of it. `catalogue` has them all.

A fault acts on a scene inside a `with` block and is over at its end. What is promised follows from how long a host was
without a proof of its session (`Outage`): guests outlive that if it is shorter than the timing allows, also when the
last heartbeat before it and the first one after it were lost. Where nothing is promised, nothing is demanded but what
always holds: no two owners, and everything well again afterwards.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from etcdlock.timing import Timing
from tests.cluster.cluster import Scene
from tests.cluster.quorum import MEMBERS

ELECTION_SECONDS: Final = 4.0
"""For etcd to have another leader: two elections of 1 to 2 s."""


class Outage(Enum):
    """Which part of a fault hosts are without a proof."""

    WHOLE = auto()      # for as long as it lasts
    ELECTION = auto()   # until etcd has another leader
    NONE = auto()
    UNBOUNDED = auto()  # nobody can say: nothing is promised


@dataclass(frozen=True, slots=True)
class Scale:
    """How long faults last in one cluster, from its timing."""

    timing: Timing

    @property
    def survivable_seconds(self) -> float:
        """How long an outage guests outlive whenever it begins: a proof may be one renewal and one try old when it
        does, and the next one come as much later.
        """
        timing = self.timing
        return timing.stop_after_seconds - 2 * (timing.renew_every_seconds + timing.try_timeout_seconds)

    @property
    def fatal_seconds(self) -> float:
        """Longer than a takeover takes."""
        return self.timing.takeover_seconds + 3.0

    @property
    def past_ttl_seconds(self) -> float:
        """Longer than a lease lives without renewal, as etcd looks for it."""
        return self.timing.ttl_seconds + 2.0


@dataclass(slots=True)
class Victims:
    """Who is hit: drawn when the fault begins."""

    scene: Scene
    chance: random.Random
    seconds: float
    stop: threading.Event

    def host(self) -> str:
        """Any host; one with a guest where there is one."""
        busy = sorted({keeper.guest.host.name for keeper in self.scene.keepers if keeper.guest is not None})
        return self.chance.choice(busy or sorted(self.scene.hosts))

    def member(self) -> str:
        """Any member of etcd."""
        return self.chance.choice(MEMBERS)

    def last(self) -> None:
        """For as long as the fault is to last, but not when the run is over."""
        self.stop.wait(self.seconds)


Act = Callable[[Victims], AbstractContextManager[str]]


@dataclass(frozen=True, slots=True)
class Fault:
    """`seconds` draws how long it lasts; `act` yields who is hit: a host, or empty for all."""

    name: str
    outage: Outage
    seconds: Callable[[Scale, random.Random], float]
    act: Act
    takes_over: bool = False
    """Whether it lasts long enough for others to take over, with an etcd that is well all the time."""

    def spares(self, scale: Scale, *, lasted_seconds: float) -> bool:
        """Whether no guest may stop for it, as it was."""
        outage_seconds = {
            Outage.WHOLE: lasted_seconds,
            Outage.ELECTION: ELECTION_SECONDS,
            Outage.NONE: 0.0,
            Outage.UNBOUNDED: float("inf"),
        }[self.outage]
        return outage_seconds <= scale.survivable_seconds


def short(scale: Scale, chance: random.Random) -> float:
    """Guests outlive it."""
    return scale.survivable_seconds * chance.uniform(0.3, 0.95)


def past_ttl(scale: Scale, _: random.Random) -> float:
    """Leases run out meanwhile, where nobody renews them."""
    return scale.past_ttl_seconds


def fatal(scale: Scale, _: random.Random) -> float:
    """Others take over meanwhile."""
    return scale.fatal_seconds


def moment(_: Scale, chance: random.Random) -> float:
    """The time between two blows."""
    return chance.uniform(0.5, 2.0)


@contextmanager
def unheard(scene: Scene, host: str, /) -> Iterator[None]:
    """Inside, the keepers hear nothing of a host, and start its guests elsewhere."""
    scene.lost.add(host)
    try:
        yield
    finally:
        scene.lost.discard(host)
