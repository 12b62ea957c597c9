"""A guest that migrates in gets the lock only with the latest memory; and none runs on that has lost a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from etcdlock.errors import EtcdlockError, Refused, Superseded
from etcdlock.model import LockState, Owner, Proof, Resource
from etcdlock.ports import Guest, Put, Txn
from etcdlock.testing import FakeProcesses, Fault
from tests.api.test_migrations import requests_of
from tests.promises.conftest import Play
from tests.promises.hypervisor import Hypervisor, hypervisor
from tests.promises.vm import Vm
from tests.promises.world import KEYS, World, disk, domain

VM, OTHER = domain(1), domain(2)
X, Y = disk("x"), disk("y")
OUT_OF_DATE = "its memory is out of date"


async def pair(world: World) -> tuple[Hypervisor, Hypervisor, Vm]:
    a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
    return a, b, await a.start(VM, X, Y)


def run_of(host: Hypervisor) -> str:
    found = host.record(VM)
    assert found is not None
    return found.record.run


async def suspended(a: Hypervisor, b: Hypervisor, vm: Vm) -> None:
    a.pause(vm)
    await asyncio.sleep(0.1)


async def suspended_at_once(a: Hypervisor, b: Hypervisor, vm: Vm) -> None:
    a.pause(vm)


async def migrated_on(a: Hypervisor, b: Hypervisor, vm: Vm) -> None:
    c = await hypervisor(a.world, "c")
    c.pause(await a.migrate(vm, c))
    await asyncio.sleep(0.1)


async def released(a: Hypervisor, b: Hypervisor, vm: Vm) -> None:
    vm.guest.end()
    await asyncio.sleep(1.0)
    assert b.record(VM) is None


async def begun_anew(a: Hypervisor, b: Hypervisor, vm: Vm) -> None:
    await released(a, b, vm)
    a.pause(await a.start(VM, X, Y))
    await asyncio.sleep(0.1)


async def dead(a: Hypervisor, b: Hypervisor, vm: Vm) -> None:
    ref = a.world.sessions(a.host)[0]
    a.kill_agent()
    vm.guest.kill()
    a.world.etcd.revoke_wrongly(a.world.leases(a.host)[0])
    assert await a.world.declare(b.host, ref)


@pytest.mark.parametrize(
    "later",
    [suspended, suspended_at_once, migrated_on, released, begun_anew, dead],
    ids=lambda item: str(item.__name__),
)
def test_a_destination_whose_migration_has_failed_never_gets_what_has_run_since(
    play: Play, later: Callable[[Hypervisor, Hypervisor, Vm], Awaitable[None]]
) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        stale = await a.fail_to_arrive(vm, b)
        await asyncio.sleep(1.0)
        await later(a, b, vm)
        with pytest.raises(Refused, match=OUT_OF_DATE):
            await b.let_run_or_kill(stale)
        assert stale.spans == []

    play(scenario)


@pytest.mark.parametrize("early", [0.0, 0.3])
def test_a_destination_that_waits_while_its_source_runs_on_and_stops_again_is_refused(play: Play, early: float) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        stale = b.prepare(VM, X, Y, incoming=True)
        await asyncio.sleep(early)
        asking = asyncio.ensure_future(b.let_run_or_kill(stale))
        await asyncio.sleep(0.3)
        a.host.store.cut()
        a.pause(vm)
        resuming = asyncio.ensure_future(a.resume(vm))
        await asyncio.sleep(0.2)
        a.host.store.mend()
        await resuming
        a.pause(vm)
        with pytest.raises(Refused, match=OUT_OF_DATE):
            await asking

    play(scenario)


@pytest.mark.parametrize("between", [0.0, 0.0002, 0.001, 0.1])
def test_a_stop_and_a_resume_are_another_run_however_quick_and_a_repeated_acquire_is_none(
    play: Play, between: float
) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X, Y)
        first = run_of(a)
        a.pause(vm)
        await asyncio.sleep(between)
        await a.resume(vm)
        await asyncio.sleep(1.0)
        second = run_of(a)
        assert first != second
        assert a.state(VM) is LockState.HELD
        before = world.etcd.revision
        for resource in (X, Y, X):
            await a.take(vm.owner, resource)
        assert world.etcd.revision == before

    play(scenario)


class SlowToLook(FakeProcesses):
    """Its guests' files lie on a server that takes its time."""

    async def has_open(self, guest: Guest, resource: Resource, /) -> bool:
        await asyncio.sleep(0.2)
        return await super().has_open(guest, resource)


def test_a_resume_that_comes_while_it_is_looked_whether_the_guest_has_stopped_is_another_run(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = Hypervisor(world, world.host("a"))
        a.processes = SlowToLook()
        await a.bring_up()
        vm = await a.start(VM, X)
        first = run_of(a)
        a.pause(vm)
        await asyncio.sleep(0.1)
        await a.resume(vm)
        assert run_of(a) != first

    play(scenario)


def test_a_claim_that_is_undone_leaves_the_run_as_it_was_and_may_be_made_again(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        run, owner = run_of(a), b.prepare(VM, X, Y, incoming=True).owner
        a.pause(vm)
        await requests_of(b).incoming(owner, (X, Y))
        assert run_of(b) != run
        await requests_of(b).incoming_cancel(VM.uuid)
        assert run_of(a) == run
        await requests_of(b).incoming(owner, (X, Y))
        await requests_of(b).incoming_complete(VM.uuid)

    play(scenario)


def test_what_lets_nobody_run_leaves_the_run_as_it_was(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        first = run_of(a)
        await a.plug(vm, Y)
        a.unplug(vm, Y)
        world.etcd.revoke_wrongly(world.leases(a.host)[0])
        await asyncio.sleep(3.0)
        a.pause(vm)
        await asyncio.sleep(0.1)
        assert (a.state(VM), run_of(a)) == (LockState.PARKED, first)

    play(scenario)


def test_a_resume_after_a_stop_that_no_agent_heard_of_is_another_run(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        stale = b.prepare(VM, X, Y, incoming=True)
        await asyncio.sleep(0.1)
        a.kill_agent()
        a.pause(vm)
        await a.bring_up()
        await a.resume(vm)
        a.pause(vm)
        await asyncio.sleep(0.1)
        with pytest.raises(Refused, match=OUT_OF_DATE):
            await b.let_run_or_kill(stale)

    play(scenario)


def test_after_a_destinations_agent_was_started_again_the_migration_fails_and_the_next_one_does_not(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        arriving = b.prepare(VM, X, Y, incoming=True)
        await asyncio.sleep(0.1)
        b.kill_agent()
        await b.bring_up()
        a.pause(vm)
        with pytest.raises(Refused, match="not known which run") as refused:
            await b.let_run_or_kill(arriving)
        assert refused.value.hint == "migrate it again"
        await a.resume(vm)
        assert (await a.migrate(vm, b)).runs

    play(scenario)


def test_with_etcd_away_as_the_process_began_the_migration_fails(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        b.host.store.cut()
        arriving = b.prepare(VM, X, Y, incoming=True)
        await asyncio.sleep(6.0)
        b.host.store.mend()
        a.pause(vm)
        with pytest.raises(Refused, match="not known which run"):
            await b.let_run_or_kill(arriving)
        await a.resume(vm)
        assert vm.runs

    play(scenario)


def test_a_managing_program_that_names_the_run_gets_that_one_or_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        a.pause(vm)
        parked = await requests_of(a).park(VM.uuid)
        await a.resume(vm)
        a.pause(vm)
        await asyncio.sleep(0.1)
        arriving = b.processes.start(incoming=True)
        owner = Owner(VM, arriving.pid)
        with pytest.raises(Refused, match=OUT_OF_DATE):
            await requests_of(b).incoming(owner, (X, Y), run=parked.record.run)
        assert (await requests_of(b).incoming(owner, (X, Y), run=run_of(a))).record.owner.host == "b"

    play(scenario)


# --- records that have lost a resource ----------------------------------------------------------------------------


async def robbed(world: World, a: Hypervisor, *, by: Hypervisor) -> Vm:
    """Another domain takes one disk with a proof, uses it, and gives it back: it is free when our host hears of it."""
    ref = world.sessions(a.host)[0]
    a.host.store.cut()
    world.etcd.revoke_wrongly(world.leases(a.host)[0])
    assert await world.declare(by.host, ref, proof=Proof.OPERATOR)
    thief = by.prepare(OTHER, Y)
    await by.take(thief.owner, Y)
    thief.guest.end()
    await asyncio.sleep(1.0)
    return thief


def was_killed(vm: Vm) -> bool:
    return vm.guest.killed_at is not None


@pytest.mark.parametrize("agent", ["joins anew", "is started again"])
@pytest.mark.parametrize("rests", [False, True], ids=["runs", "rests"])
def test_a_guest_that_has_lost_a_disk_is_killed_though_the_disk_is_free_again(
    play: Play, agent: str, rests: bool
) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        if rests:
            a.pause(vm)
            await asyncio.sleep(0.1)
        await robbed(world, a, by=b)
        assert not was_killed(vm)
        if agent == "is started again":
            a.kill_agent()
            a.host.store.mend()
            await a.bring_up()
        a.host.store.mend()
        await asyncio.sleep(5.0)
        assert was_killed(vm)
        await asyncio.sleep(2.0)
        assert not world.etcd.contents(KEYS.domains)
        await b.start(VM, X, Y)

    play(scenario, judged=False)  # an operator's word that was not true: the judge would say so


def test_a_migration_of_a_guest_that_has_lost_a_disk_is_refused(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        arriving = b.prepare(VM, X, Y, incoming=True)
        a.pause(vm)
        await asyncio.sleep(0.1)
        await robbed(world, a, by=b)
        with pytest.raises(Refused, match="/san/y was taken over from it"):
            await b.let_run_or_kill(arriving)

    play(scenario, judged=False)


def removes(txn: Txn) -> bool:
    return len(txn.success) == 2 and any(isinstance(op, Put) for op in txn.success)


def test_a_disk_that_the_guest_itself_has_given_up_is_not_missed(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        a.host.store.lose(Fault.ANSWER, when=removes)
        a.unplug(vm, Y)
        await asyncio.sleep(0.005)
        world.etcd.revoke_wrongly(world.leases(a.host)[0])
        await asyncio.sleep(5.0)
        assert vm.runs
        found = a.record(VM)
        assert found is not None
        assert found.record.resources == (X,)
        with suppress(EtcdlockError, Superseded):
            await b.start(OTHER, Y)
        assert (await a.migrate(vm, b)).runs

    play(scenario)
