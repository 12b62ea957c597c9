"""Migrations as a managing program drives them, in virtual time: who owns the guest, whatever ends in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from etcdlock.agent.requests import Requests
from etcdlock.errors import EtcdlockError, HeldElsewhere, NotClaimed, OutcomeUnknown, Superseded
from etcdlock.model import LockState, SessionKind
from etcdlock.records import decode_domain
from etcdlock.testing import Fault
from tests.promises.conftest import Play
from tests.promises.hypervisor import ACQUIRE_SECONDS, Hypervisor, hypervisor
from tests.promises.vm import Vm
from tests.promises.world import KEYS, World, disk, domain, locks

VM, OTHER, A, B = domain(0x1234), domain(0x5678), disk("a"), disk("b")


def requests_of(host: Hypervisor) -> Requests:
    """As a managing program sees the host's agent."""
    assert host.agent is not None
    context = host.host.context(
        contract=host.world.contract, chance=host.world.fresh_chance(), kind=SessionKind.AGENT, stall=host.stall
    )
    return Requests(host.agent, context, processes=host.processes, answer_seconds=ACQUIRE_SECONDS)


class Migration:
    """One guest that runs on the first host, and a process on the second that is to take it in."""

    def __init__(self, source: Hypervisor, destination: Hypervisor) -> None:
        self.source, self.destination = source, destination
        self.leaving = source.prepare(VM, A, B)
        self.arriving: Vm

    async def begin(self) -> None:
        await requests_of(self.source).acquire(self.leaving.owner, (A, B))
        self.runs(self.source, self.leaving)
        self.receive()

    def receive(self) -> None:
        self.arriving = self.destination.prepare(VM, A, B, incoming=True)

    def runs(self, host: Hypervisor, vm: Vm) -> None:
        """Its vCPUs run from now on; the judge is told."""
        vm.granted = len(vm.disks)
        host._began(vm)  # noqa: SLF001 - the hypervisor's own record of what runs

    def stands(self) -> None:
        self.source._stopped(self.leaving)  # noqa: SLF001 - as above

    async def prepare(self) -> None:
        self.stands()
        await requests_of(self.source).park(VM.uuid)

    async def claim(self) -> None:
        await requests_of(self.destination).incoming(self.arriving.owner, (A, B))

    async def arrive(self) -> None:
        await requests_of(self.destination).incoming_complete(VM.uuid)
        self.runs(self.destination, self.arriving)

    async def leave(self) -> None:
        await requests_of(self.source).complete(VM.uuid)
        self.leaving.guest.end()

    @property
    def steps(self) -> tuple[Callable[[], Any], ...]:
        return (self.begin, self.prepare, self.claim, self.arrive, self.leave)


async def two(world: World) -> Migration:
    return Migration(await hypervisor(world, "alice"), await hypervisor(world, "bob"))


def owners(world: World) -> list[str | None]:
    """Of the domain, at each of its revisions."""
    key = KEYS.domain(VM.uuid)
    found = [change.stored for change in world.etcd.changes() if change.key == key]
    return [None if stored is None else decode_domain(stored).record.owner.host for stored in found]


def test_a_third_host_never_gets_between_and_the_owner_changes_in_one_revision(play: Play) -> None:
    async def scenario(world: World) -> None:
        migration, carol = await two(world), await hypervisor(world, "carol")
        won: list[str] = []
        await migration.begin()
        contending = asyncio.ensure_future(contend(carol, won))
        for step in migration.steps[1:]:
            await step()
            await asyncio.sleep(0.5)
        contending.cancel()
        await asyncio.gather(contending, return_exceptions=True)
        assert won == []
        told = owners(world)
        assert None not in told
        assert [host for at, host in enumerate(told) if at == 0 or told[at - 1] != host] == ["alice", "bob"]
        disks = [change for change in world.etcd.changes() if change.key.startswith(KEYS.resources.key)]
        gone = [change.key for change in disks if change.stored is None]
        assert gone == []

    play(scenario)


async def contend(carol: Hypervisor, won: list[str]) -> None:
    asked = requests_of(carol)
    while True:
        for disks in ((A,), (B,), (A, B)):
            vm = carol.prepare(OTHER, *disks)
            try:
                await asked.acquire(vm.owner, disks)
                won.append(str(disks))
            except HeldElsewhere:
                pass
            vm.guest.end()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("crash", ["source", "destination"])
@pytest.mark.parametrize("after", range(1, 5))
def test_whichever_host_dies_whenever_the_guest_has_one_owner(play: Play, crash: str, after: int) -> None:
    async def scenario(world: World) -> None:
        migration = await two(world)
        for step in migration.steps[:after]:
            await step()
        dead = migration.source if crash == "source" else migration.destination
        power_off(dead)
        for step in migration.steps[after:]:
            with suppress(EtcdlockError, AssertionError):
                await step()
        await asyncio.sleep(60.0)
        carol = await hypervisor(world, "carol")
        owner = migration.source.record(VM)
        last = "bob" if after >= 3 or (crash == "source" and after == 2) else "alice"  # it was parked: bob claims it
        assert owner is not None
        assert owner.record.owner.host == last
        assert await may_have_it(carol) == (last == dead.host.name)

    play(scenario)


async def may_have_it(carol: Hypervisor) -> bool:
    """Whether a third host gets the guest in the end."""
    vm = carol.prepare(VM, A, B)
    for _ in range(60):
        try:
            await requests_of(carol).acquire(vm.owner, (A, B))
        except HeldElsewhere:
            await asyncio.sleep(1.0)
        else:
            return True
    return False


def power_off(host: Hypervisor) -> None:
    """Everything of it is dead at once, and nothing more of it reaches etcd."""
    host.host.store.cut()
    host.kill_agent()
    for guest in host.processes.started:
        guest.death_seconds = 0.0
        guest.kill()


@pytest.mark.parametrize("after", range(1, 5))
def test_a_process_that_ends_on_the_destination_before_it_may_run_leaves_the_guest_to_the_source(
    play: Play, after: int
) -> None:
    async def scenario(world: World) -> None:
        migration = await two(world)
        for step in migration.steps[:after]:
            await step()
        migration.arriving.guest.end()
        await asyncio.sleep(5.0)
        source = requests_of(migration.source)
        if after < 4:
            await source.unpark(VM.uuid)
            assert migration.source.state(VM) is LockState.HELD
        else:
            with pytest.raises(Superseded):
                await source.unpark(VM.uuid)
            assert migration.source.record(VM) is None

    play(scenario)


def test_the_destination_waits_until_the_source_has_parked_and_no_longer_than_its_bound(play: Play) -> None:
    async def scenario(world: World) -> None:
        migration = await two(world)
        await migration.begin()
        began = asyncio.get_running_loop().time()
        with pytest.raises(HeldElsewhere):
            await migration.claim()
        assert asyncio.get_running_loop().time() - began <= ACQUIRE_SECONDS
        claiming = asyncio.ensure_future(migration.claim())
        await asyncio.sleep(1.0)
        assert not claiming.done()
        await migration.prepare()
        await claiming
        await migration.arrive()
        await migration.leave()

    play(scenario)


def test_a_source_is_not_told_that_it_has_gone_while_it_has_not(play: Play) -> None:
    async def scenario(world: World) -> None:
        migration = await two(world)
        await migration.begin()
        with pytest.raises(NotClaimed):
            await requests_of(migration.source).complete(VM.uuid)
        await migration.prepare()
        with pytest.raises(NotClaimed):
            await requests_of(migration.source).complete(VM.uuid)
        await requests_of(migration.source).unpark(VM.uuid)
        assert migration.source.state(VM) is LockState.HELD

    play(scenario)


@pytest.mark.parametrize("who", ["source", "destination"])
@pytest.mark.parametrize("step", range(1, 4))
def test_an_agent_that_is_started_again_in_a_migration_goes_on_with_it(play: Play, who: str, step: int) -> None:
    async def scenario(world: World) -> None:
        migration = await two(world)
        for done in migration.steps[:step]:
            await done()
        host = migration.source if who == "source" else migration.destination
        host.kill_agent()
        await host.bring_up()
        await asyncio.sleep(1.0)
        for rest in migration.steps[step:]:
            await rest()
        await asyncio.sleep(1.0)
        record = migration.source.record(VM)
        assert record is not None
        assert record.record.owner.host == "bob"

    play(scenario)


def test_lost_answers_in_every_step_end_in_one_owner_that_knows_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        migration = await two(world)
        for step in migration.steps:
            for host in (migration.source, migration.destination):
                host.host.store.lose(Fault.ANSWER, when=locks)
            await repeated(step)
        record = migration.destination.record(VM)
        assert record is not None
        assert record.record.owner.host == "bob"

    play(scenario)


async def repeated(step: Callable[[], Any]) -> None:
    """As a program does that is told that it is not known."""
    for _ in range(5):
        try:
            await step()
        except OutcomeUnknown:
            continue
        return
    pytest.fail("still unknown")

