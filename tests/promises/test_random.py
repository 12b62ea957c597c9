"""Hosts, guests and etcd under random trouble, then none: nothing unsafe happens, and everything ends.

One seed decides everything; a failure prints it. More seeds: SEEDS=5000 pytest tests/promises/test_random.py
"""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from etcdlock.testing import Fault, run_virtual
from tests.promises.judge import judge, left_behind
from tests.promises.world import RHO, TIMING, Host, Run, World, disk, domain

SEEDS = int(os.environ.get("SEEDS", "120"))
BATCHES = 10
TROUBLES_PER_SEED = 14
DISKS = ("x", "y", "z")


class Chaos:
    """Picks and does one thing at a time."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - must be repeatable
        self.world = World(seed=seed)
        self.live = [self._host(name) for name in "abc"]

    def _host(self, name: str) -> Host:
        return self.world.host(name, rate=1.0 + self.chance.uniform(-RHO, RHO), offset=self.chance.uniform(0.0, 1e6))

    async def play(self) -> None:
        for _ in range(4):
            self.start()
        for _ in range(TROUBLES_PER_SEED):
            trouble = self.chance.choice((
                self.start, self.start, self.cut, self.mend, self.mend, self.revoke, self.stall, self.go_on, self.lose,
                self.etcd_lies, self.end_guest, self.cancel, self.kill_guard,
            ))
            trouble()
            await asyncio.sleep(self.chance.choice((0.002, 0.1, 1.0, 6.0, 20.0)))
        await self.world.end()
        await asyncio.sleep(45.0)  # what is late has arrived, leases have run out
        self.world.etcd.keep_alives_lie = False
        await self._inherit()

    async def _inherit(self) -> None:
        """Whatever dead programs could not give back is there for the taking after the hold-off."""
        host = self.world.host("heir")
        disks = [disk(name) for name in DISKS]
        for number in (1, 2, 3):
            ending = await self.world.start(host, domain(number), *disks, wait=100.0, life=1.0, guarded=True).ended
            assert (ending.status.code, ending.released) == (0, True)

    def start(self) -> None:
        disks = [disk(name) for name in self.chance.sample(DISKS, k=self.chance.randint(1, 3))]
        self.world.start(
            self.chance.choice(self.live),
            domain(self.chance.randint(1, 3)),
            *disks,
            wait=self.chance.choice((0.0, 30.0, 90.0)),
            answer=self.chance.choice((3.0, 10.0, 60.0)),
            life=self.chance.choice((None, 0.5, 40.0)),
            death=self.chance.uniform(0.0, TIMING.kill_seconds),
            guarded=True,
        )

    def cut(self) -> None:
        self.chance.choice(self.live).store.cut()

    def mend(self) -> None:
        self.chance.choice(self.live).store.mend()

    def revoke(self) -> None:
        leases = [lease for host in self.live for lease in self.world.leases(host)]
        if leases:
            self.world.etcd.revoke_wrongly(self.chance.choice(leases))

    def stall(self) -> None:
        self.chance.choice(self.live).stall.begin()

    def go_on(self) -> None:
        for host in self.live:
            host.stall.end()

    def lose(self) -> None:
        host, fault = self.chance.choice(self.live), self.chance.choice(tuple(Fault))
        late = self.chance.choice((0.01, 1.0, 8.0, 40.0))
        host.store.lose(fault, count=self.chance.randint(1, 4), delay_seconds=late)

    def etcd_lies(self) -> None:
        self.world.etcd.keep_alives_lie = self.chance.random() < 0.3
        self.world.etcd.stale_reads(3, revisions=2)
        self.world.etcd.lose_events(2)

    def _some(self) -> Run:
        return self.chance.choice(self.world.runs)

    def end_guest(self) -> None:
        guest = self._some().guest
        if guest is not None:
            guest.end()

    def cancel(self) -> None:
        self._some().ended.cancel()

    def kill_guard(self) -> None:
        run = self._some()
        if not run.host.stall.stalled:  # with nobody to replace it, there would be neither program nor guard
            run.guards[-1].kill()


@pytest.mark.parametrize("batch", range(BATCHES))
def test_under_random_trouble_the_judge_finds_nothing_and_nothing_is_left(batch: int) -> None:
    for seed in range(batch, SEEDS, BATCHES):
        try:
            world = run_virtual(_played(seed), limit_seconds=5000.0)
            judge(world)
            assert left_behind(world) == []
        except BaseException:
            print(f"seed {seed}")
            raise


async def _played(seed: int) -> World:
    chaos = Chaos(seed)
    await chaos.play()
    return chaos.world
