"""What each host has for itself is copied when a guest migrates: it is taken anew there, and given up here."""

from __future__ import annotations

import asyncio

import pytest

from etcdlock.errors import EtcdlockError, HeldElsewhere
from etcdlock.identity import Naming
from etcdlock.model import LockState, Mode, Resource
from tests.promises.conftest import Play
from tests.promises.hypervisor import Hypervisor, hypervisor
from tests.promises.span import called
from tests.promises.vm import Vm
from tests.promises.world import World, disk, domain

VM, OTHER = domain(1), domain(2)
SHARED = disk("x")
FILE = "/local/vm1.img"


def own(host: Hypervisor) -> Resource:
    """The file as its host's agent names it."""
    name = Naming(host=host.host.name, local_folders=("/local",))(FILE)
    return Resource(name.lockspace, name.name, Mode.EXCLUSIVE, FILE)


async def pair(world: World) -> tuple[Hypervisor, Hypervisor]:
    return await hypervisor(world, "a"), await hypervisor(world, "b")


def arrive(vm: Vm, there: Hypervisor, *, order: int = 1) -> Vm:
    """Its process at the destination of a migration, with a copy of the file."""
    return there.prepare(vm.owner.domain, *[SHARED, own(there)][::order], incoming=True)


async def copied(vm: Vm, here: Hypervisor, there: Hypervisor, *, order: int = 1) -> Vm:
    arriving = arrive(vm, there, order=order)
    here.pause(vm)
    await there.let_run_or_kill(arriving)
    vm.guest.end()
    return arriving


def locked(host: Hypervisor) -> set[str]:
    """What etcd says the domain has."""
    stored = host.record(VM)
    return set() if stored is None else {called(resource) for resource in stored.record.resources}


def both(host: Hypervisor) -> set[str]:
    return {called(SHARED), called(own(host))}


def test_two_hosts_have_files_of_one_path_and_do_not_block_each_other(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await pair(world)
        here, there = await a.start(VM, own(a)), await b.start(OTHER, own(b))
        assert here.runs
        assert there.runs
        with pytest.raises(HeldElsewhere, match=f"{FILE} is held by domain vm1 on host a"):
            await a.start(domain(3), own(a))

    play(scenario)


@pytest.mark.parametrize("order", [1, -1], ids=["shared disk first", "own file first"])
def test_a_guest_that_arrives_has_the_destinations_file_and_the_sources_is_free_again(play: Play, order: int) -> None:
    async def scenario(world: World) -> None:
        a, b = await pair(world)
        vm = await a.start(VM, SHARED, own(a))
        for here, there in ((a, b), (b, a), (a, b)):
            vm = await copied(vm, here, there, order=order)
            await asyncio.sleep(0.1)
            assert locked(there) == both(there)
        assert vm.runs
        await a.start(OTHER, own(a))

    play(scenario)


def test_a_guest_with_nothing_but_a_file_of_its_hosts_own_migrates_as_well(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await pair(world)
        vm = await a.start(VM, own(a))
        arriving = b.prepare(VM, own(b), incoming=True)
        a.pause(vm)
        await b.let_run_or_kill(arriving)
        vm.guest.end()
        await asyncio.sleep(0.1)
        assert locked(b) == {called(own(b))}

    play(scenario)


def test_the_sources_file_is_its_guests_until_the_destination_has_been_told_yes(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await pair(world)
        vm = await a.start(VM, own(a), SHARED)
        blocking = await b.start(OTHER, own(b))
        arriving = arrive(vm, b, order=-1)
        a.pause(vm)
        with pytest.raises(HeldElsewhere, match=f"{FILE} is held by domain vm2 on host b"):
            await b.let_run_or_kill(arriving)
        await asyncio.sleep(1.0)
        assert (locked(a), a.state(VM)) == (both(a), LockState.PARKED)
        with pytest.raises(HeldElsewhere):
            await a.start(domain(3), own(a))
        await a.resume(vm)
        assert (vm.runs, blocking.runs) == (True, True)

    play(scenario)


async def arrived_when_etcd_went_away(world: World) -> tuple[Hypervisor, Hypervisor, Vm]:
    """Source, destination, and the guest: told yes, while the source's file cannot be given up yet."""
    a, b = await pair(world)
    vm = await a.start(VM, own(a))
    arriving = b.prepare(VM, own(b), incoming=True)
    a.pause(vm)
    await b.take(arriving.owner, own(b))
    b.host.store.cut()
    vm.guest.end()
    await asyncio.sleep(1.0)
    assert called(own(a)) in locked(b)
    return a, b, arriving


def test_what_stays_behind_is_given_up_when_etcd_answers_again(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, _ = await arrived_when_etcd_went_away(world)
        b.host.store.mend()
        await asyncio.sleep(5.0)
        assert locked(b) == {called(own(b))}
        await a.start(OTHER, own(a))

    play(scenario)


def test_what_stays_behind_is_given_up_by_the_next_agent_if_the_first_one_dies_before(play: Play) -> None:
    async def scenario(world: World) -> None:
        _, b, arriving = await arrived_when_etcd_went_away(world)
        b.kill_agent()
        b.host.store.mend()
        await b.bring_up()
        await asyncio.sleep(1.0)
        assert locked(b) == {called(own(b))}
        assert arriving.guest.killed_at is None

    play(scenario)


def test_a_guest_that_is_refused_everywhere_leaves_nothing_behind(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await pair(world)
        await a.start(VM, SHARED)
        with pytest.raises(EtcdlockError):
            await b.start(OTHER, own(b), SHARED)
        await asyncio.sleep(0.1)
        await b.start(domain(3), own(b))

    play(scenario)
