"""What a host's agent does for the guests that others start: it takes, adds, parks, lets run, removes, gives back."""

from __future__ import annotations

import asyncio

import pytest

from etcdlock.errors import HeldElsewhere, NoSuchGuest, NotLocked, NotTheOwner, Refused
from etcdlock.model import LockState, Mode, Owner
from tests.promises.conftest import Play
from tests.promises.hypervisor import Hypervisor, hypervisor
from tests.promises.world import KEYS, World, disk, domain

VM, OTHER = domain(1), domain(2)
X, Y, Z = disk("x"), disk("y"), disk("z")


def names(host: Hypervisor) -> list[str]:
    """The disks that etcd says the domain has."""
    stored = host.record(VM)
    return [] if stored is None else [resource.name.rpartition("/")[2] for resource in stored.record.resources]


def test_the_first_disk_takes_the_domain_and_further_ones_are_added_under_the_same_token(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = a.prepare(VM, X, Y)
        await a.take(vm.owner, X)
        first = a.record(VM)
        await a.take(vm.owner, Y)
        second = a.record(VM)
        assert first is not None
        assert second is not None
        assert (names(a), second.token) == (["x", "y"], first.token)
        assert second.record.pid_start == vm.guest.pid_start

    play(scenario)


def test_what_the_guest_has_already_is_a_success_whatever_it_calls_it_and_writes_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        revision = world.etcd.revision
        await a.take(vm.owner, X)
        await a.take(vm.owner, type(X)(X.lockspace, X.name, Mode.SHARED, "/another/way/there"))
        assert world.etcd.revision == revision
        assert vm.runs

    play(scenario)


def test_a_disk_that_is_shared_is_not_taken_for_one_held_alone(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, disk("x", Mode.SHARED))
        with pytest.raises(HeldElsewhere):
            await a.take(vm.owner, X)

    play(scenario)


def test_a_guest_whose_second_disk_is_refused_is_killed_by_libvirt_and_leaves_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        await a.start(OTHER, Y)
        with pytest.raises(HeldElsewhere, match="/san/y is held by domain vm2 on host a"):
            await b.start(VM, X, Y, Z)
        await asyncio.sleep(0.1)
        assert b.record(VM) is None
        assert b.agent is not None
        assert b.agent.residents == ()
        await a.start(VM, X)

    play(scenario)


def test_suspending_is_answered_at_once_and_etcd_follows(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X, Y)
        a.pause(vm)
        assert a.state(VM) is LockState.HELD  # answered; not a step of time has passed
        await asyncio.sleep(0.1)
        assert (a.state(VM), names(a)) == (LockState.PARKED, ["x", "y"])
        await a.resume(vm)
        assert a.state(VM) is LockState.HELD

    play(scenario)


@pytest.mark.parametrize("away", [0.001, 0.5, 2.0, 7.0, 15.0])
def test_a_guest_suspended_while_etcd_is_away_is_parked_when_it_is_back(play: Play, away: float) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        a.host.store.cut()
        a.pause(vm)
        await asyncio.sleep(away)
        a.host.store.mend()
        await asyncio.sleep(10.0)
        assert a.state(VM) is LockState.PARKED
        assert vm.guest.killed_at is None

    play(scenario)


@pytest.mark.parametrize("after", [0.0, 0.0003, 0.0008, 0.0015, 0.003])
def test_a_guest_that_is_let_run_again_before_etcd_knew_that_it_had_stopped_is_not_parked_afterwards(
    play: Play, after: float
) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X, Y)
        a.pause(vm)
        await asyncio.sleep(after)
        await a.resume(vm)
        await asyncio.sleep(5.0)
        assert a.state(VM) is LockState.HELD

    play(scenario)


def test_a_disk_that_is_closed_is_given_up_and_another_host_may_have_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X, Y)
        a.unplug(vm, Y)
        await asyncio.sleep(0.1)
        assert (names(a), a.state(VM)) == (["x"], LockState.HELD)
        await b.start(OTHER, Y)
        assert vm.runs

    play(scenario)


def test_a_shared_disk_is_given_up_though_nobody_says_that_it_was_shared(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        shared = disk("y", Mode.SHARED)
        vm = await a.start(VM, X, shared)
        a.processes.close(vm.guest, shared)
        vm.disks.remove(shared)
        assert a.agent is not None
        a.agent.give_up(vm.owner, Y)
        await asyncio.sleep(0.1)
        assert names(a) == ["x"]

    play(scenario)


@pytest.mark.parametrize("away", [0.0, 0.001, 0.5, 3.0])
def test_a_disk_that_comes_back_before_etcd_knew_that_it_had_gone_stays_locked(play: Play, away: float) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X, Y)
        a.host.store.cut()
        a.unplug(vm, Y)
        await asyncio.sleep(away)
        a.host.store.mend()
        await a.plug(vm, Y)
        await asyncio.sleep(5.0)
        assert names(a) == ["x", "y"]
        with pytest.raises(HeldElsewhere):
            await b.start(OTHER, Y)

    play(scenario)


@pytest.mark.parametrize("new", [Z, Y], ids=["a new one", "one that has just been closed"])
def test_a_disk_that_is_plugged_into_a_suspended_guest_leaves_it_suspended(play: Play, new: object) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X, Y)
        a.pause(vm)
        await asyncio.sleep(0.1)
        if new is Y:
            a.unplug(vm, Y)
        await a.plug(vm, Z if new is Z else Y)
        await asyncio.sleep(3.0)
        assert a.state(VM) is LockState.PARKED
        assert set(names(a)) == ({"x", "y", "z"} if new is Z else {"x", "y"})

    play(scenario)


@pytest.mark.parametrize("away", [0.0, 1.0, 12.0, 30.0])
def test_when_the_guest_is_gone_everything_is_given_back_whenever_etcd_can_be_told(play: Play, away: float) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X, Y)
        if away:
            a.host.store.cut()
        vm.guest.end()
        await asyncio.sleep(away)
        a.host.store.mend()
        await asyncio.sleep(4.0)
        assert not world.etcd.contents(KEYS.resources)
        await b.start(VM, X, Y)
        assert a.agent is not None
        assert a.agent.residents == ()

    play(scenario)


@pytest.mark.parametrize("millisecond", range(12))
def test_a_guest_that_ends_while_its_disks_are_being_taken_leaves_nothing(play: Play, millisecond: int) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = a.prepare(VM, X, Y, Z)
        starting = asyncio.ensure_future(a.let_run_or_kill(vm))
        await asyncio.sleep(millisecond / 1000)
        vm.guest.end()
        await asyncio.gather(starting, return_exceptions=True)
        await asyncio.sleep(3.0)
        assert not vm.runs
        assert not world.etcd.contents(KEYS.domains)
        assert a.agent is not None
        assert a.agent.residents == ()

    play(scenario)


def test_nothing_is_taken_for_a_guest_that_ended_while_its_call_waited_for_another(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        a.host.store.cut()
        first = asyncio.ensure_future(a.take(vm.owner, Y))
        await asyncio.sleep(0.1)
        vm.guest.end()
        await asyncio.sleep(0.1)
        with pytest.raises(NoSuchGuest):
            await a.take(vm.owner, Z)
        await asyncio.sleep(3.0)
        a.host.store.mend()
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.sleep(20.0)
        assert not world.etcd.contents(KEYS.domains)

    play(scenario)


def test_a_domain_started_again_at_once_waits_until_its_old_process_has_given_back(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        old = await a.start(VM, X)
        a.host.store.cut()
        old.guest.end()
        new = a.prepare(VM, X)
        starting = asyncio.ensure_future(a.let_run_or_kill(new))
        await asyncio.sleep(2.0)
        a.host.store.mend()
        await starting
        assert new.runs
        found = a.record(VM)
        assert found is not None
        assert found.record.pid == new.owner.pid

    play(scenario)


def test_a_pid_that_is_used_again_is_another_guest(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        old = await a.start(VM, X)
        old.guest.end()
        new = a.prepare(VM, X, pid=old.owner.pid)
        await a.let_run_or_kill(new)
        await asyncio.sleep(5.0)
        found = a.record(VM)
        assert found is not None
        assert found.record.pid_start == new.guest.pid_start

    play(scenario)


def test_a_second_process_of_a_domain_is_refused_while_the_first_one_lives(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        first = await a.start(VM, X)
        second = a.prepare(VM, X)
        assert a.agent is not None
        with pytest.raises(Refused, match=f"another process on this host, {first.owner.pid}"):
            a.agent.present(second.owner)
        with pytest.raises(Refused, match="another process"):
            await a.take(second.owner, Y)
        with pytest.raises(NotTheOwner):
            a.agent.give_up(second.owner, X)
        with pytest.raises(NoSuchGuest):
            a.agent.present(Owner(VM, 99))
        assert (names(a), first.runs) == (["x"], True)

    play(scenario)


def test_what_is_not_locked_cannot_be_given_up(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        assert a.agent is not None
        for owner, resource in ((vm.owner, Y), (Owner(OTHER, vm.owner.pid), X)):
            with pytest.raises(NotLocked):
                a.agent.give_up(owner, resource)

    play(scenario)


def test_a_guest_that_never_took_anything_is_forgotten_with_its_end(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = a.prepare(VM, X)
        assert a.agent is not None
        assert [resident.owner for resident in a.agent.residents] == [vm.owner]
        a.agent.departed(vm.owner)
        vm.guest.end()
        await asyncio.sleep(0.1)
        assert a.agent.residents == ()

    play(scenario)


def test_before_the_agent_knows_its_earlier_guests_it_takes_and_gives_up_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = Hypervisor(world, world.host("a"))
        a.start_agent()
        vm = a.prepare(VM, X)
        assert a.agent is not None
        with pytest.raises(Refused, match="starting or stopping"):
            a.agent.present(vm.owner)
        with pytest.raises(Refused, match="starting or stopping"):
            await a.take(vm.owner, X)
        with pytest.raises(Refused, match="starting or stopping"):
            a.agent.give_up(vm.owner, X)

    play(scenario)
