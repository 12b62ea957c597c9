"""The scene of a schedule, and what libvirt and people who start programs do on it, all of it decided by one seed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from etcdlock.errors import EtcdlockError
from etcdlock.escalation import Action
from etcdlock.model import Mode, Resource
from etcdlock.testing import FakeClock
from tests.promises.vm import Vm
from tests.promises.world import RHO, TIMING, disk, domain
from tests.simulation.cluster import Cluster, Machine
from tests.simulation.moments import Moments
from tests.simulation.party import Party

X, Y, Z = disk("x"), disk("y"), disk("z", Mode.SHARED)
DISKS = (X, Y, Z)
LOCK_KINDS = ("acquire", "takeover", "claim", "park", "unpark", "rejoin", "add", "change", "release")
HEIR_WAITS_SECONDS = 100.0


class Stage:
    """Make it inside `run_virtual`."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(f"drama {seed}")  # noqa: S311 - must be repeatable
        self.cluster = Cluster(seed=seed)
        self.etcd = self.cluster.etcd
        self.moments = Moments(self.etcd)
        self.boots = 0
        self._busy: set[Vm] = set()
        self._lingering: list[tuple[Machine, Vm]] = []
        self._under_way: set[asyncio.Task[None]] = set()

    # --- the scene -------------------------------------------------------------------------------------------------

    async def machine(
        self,
        name: str,
        *,
        rate: float | None = None,
        death: float | None = None,
        watchdog_seconds: float = 0.0,
        steered: float = 0.0,
        action: Action | None = None,
        identity: str = "",
        is_up: bool = True,
    ) -> Machine:
        """A host whose agent serves; its clock runs as fast or as slow as the contract lets it, or as given."""
        rate = self.chance.choice((1 - RHO, 1.0, 1 + RHO)) if rate is None else rate
        host = self.cluster.host(name, rate=rate, offset=self.chance.uniform(0.0, 1e6))
        host.machine, host.boot = identity, f"boot of {identity or name}"
        machine = self.cluster.machine(
            host,
            death_seconds=self.a_death() if death is None else death,
            watchdog_seconds=watchdog_seconds,
            steered=FakeClock(rate * (1 + steered), offset=self.chance.uniform(0.0, 1e6)) if steered else None,
        )
        machine.action = self.chance.choice((Action.KILL, Action.KILL, Action.FREEZE)) if action is None else action
        if is_up:
            await machine.bring_up()
        return machine

    def a_death(self) -> float:
        """How long a guest takes to die: often as long as it may."""
        longest = 0.99 * TIMING.kill_seconds
        return self.chance.choice((0.0, longest, longest, self.chance.uniform(0.0, longest)))

    def solo(self, machine: Machine, number: int, *disks: Resource, **options: Any) -> Party:
        """`etcdlock run` beside whatever else there is on that host."""
        options.setdefault("wait", self.chance.choice((0.0, 30.0, 90.0)))
        options.setdefault("death", self.a_death())
        options.setdefault("action", self.chance.choice((Action.KILL, Action.KILL, Action.FREEZE)))
        return self.cluster.solo(machine.host, domain(number), *disks, **options)

    @property
    def machines(self) -> list[Machine]:
        """Those that are on."""
        return [machine for machine in self.cluster.machines if not machine.is_off]

    def pick(self) -> Machine:
        return self.chance.choice(self.machines)

    def other(self, machine: Machine) -> Machine:
        others = [other for other in self.machines if other is not machine]
        return self.chance.choice(others) if others else machine

    async def wait(self, *seconds: float) -> None:
        """One of these, or anything between two of them."""
        await asyncio.sleep(self.chance.uniform(min(seconds), max(seconds)))

    def maybe(self, likely: float) -> bool:
        return self.chance.random() < likely

    def begin(self, doing: Coroutine[Any, Any, object], vm: Vm | None = None) -> asyncio.Task[None]:
        """Do it beside everything else; that it is refused is no failure."""
        task = asyncio.ensure_future(self._done(doing, vm))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _done(self, doing: Coroutine[Any, Any, object], vm: Vm | None) -> None:
        if vm is not None:
            self._busy.add(vm)
        with suppress(EtcdlockError):
            await doing
        if vm is not None:
            self._busy.discard(vm)

    # --- what libvirt does -----------------------------------------------------------------------------------------

    def guests(self) -> list[Vm]:
        return [vm for machine in self.machines for vm in machine.vms if vm.guest.gone_at is None]

    def some_guest(self) -> tuple[Machine, Vm] | None:
        """One that has begun to run, and that libvirt is not at work for."""
        alive = ((machine, vm) for machine in self.machines for vm in machine.vms if vm.guest.gone_at is None)
        idle = [(machine, vm) for machine, vm in alive if vm not in self._busy and (vm.runs or vm.spans)]
        return self.chance.choice(idle) if idle else None

    def start(self, machine: Machine | None = None) -> None:
        machine, disks = machine or self.pick(), self.chance.sample(DISKS, k=self.chance.randint(1, 3))
        self.begin(machine.start(domain(self.chance.randint(1, 3)), *disks))

    def start_solo(self) -> None:
        disks = self.chance.sample(DISKS, k=self.chance.randint(1, 3))
        answer, life = self.chance.choice((3.0, 10.0, 60.0)), self.chance.choice((None, 0.5, 40.0))
        self.solo(self.pick(), self.chance.randint(1, 3), *disks, answer=answer, life=life)

    def pause(self) -> None:
        if (some := self.some_guest()) and some[1].runs:
            some[0].pause(some[1])

    def resume(self) -> None:
        if (some := self.some_guest()) and not some[1].runs:
            self.begin(some[0].resume(some[1]), some[1])

    def pause_and_resume(self) -> None:
        if (some := self.some_guest()) and some[1].runs:
            some[0].pause(some[1])
            self.begin(some[0].resume(some[1]), some[1])

    def migrate(self) -> None:
        if (some := self.some_guest()) and some[1].runs:
            self.begin(some[0].migrate(some[1], self.other(some[0])), some[1])

    def fail_to_migrate(self) -> None:
        if (some := self.some_guest()) and some[1].runs:
            some[0].fail_to_migrate(some[1], self.other(some[0]))

    def linger(self) -> None:
        if (some := self.some_guest()) and some[1].runs:
            self.begin(self._left_waiting(*some), some[1])

    async def _left_waiting(self, machine: Machine, vm: Vm) -> None:
        other = self.other(machine)
        assert isinstance(other, Machine)
        try:
            await machine.fail_to_arrive(vm, other)
        finally:
            self._lingering.append((other, other.vms[-1]))

    def ask_late(self) -> None:
        waiting = [(host, vm) for host, vm in self._lingering if vm.guest.gone_at is None and not vm.granted]
        if waiting:
            machine, vm = self.chance.choice(waiting)
            self.begin(machine.let_run_or_kill(vm), vm)

    def run_on(self) -> None:
        if (some := self.some_guest()) and not some[1].runs:
            some[0].run_on(some[1])

    def plug(self) -> None:
        if some := self.some_guest():
            machine, vm = some
            missing = [each for each in DISKS if each not in vm.disks]
            if missing:
                self.begin(machine.plug(vm, self.chance.choice(missing)), vm)

    def unplug(self) -> None:
        if (some := self.some_guest()) and len(some[1].disks) > 1:
            some[0].unplug(some[1], self.chance.choice(some[1].disks))

    def end_guest(self) -> None:
        if some := self.some_guest():
            some[1].guest.end()

    def end_solo(self) -> None:
        if party := self._some_party():
            guest = party.guest
            if guest is not None:
                guest.end()

    def cancel_solo(self) -> None:
        if party := self._some_party():
            party.ended.cancel()

    def _some_party(self) -> Party | None:
        living = [party for party in self.cluster.parties if not party.ended.done()]
        return self.chance.choice(living) if living else None
