"""What becomes of a host's guests when its session, another host, or etcd as a whole is in trouble."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from etcdlock.errors import EtcdlockError, HeldElsewhere, Superseded, Unreachable
from etcdlock.ports import Delete, KeyRange, Txn
from etcdlock.testing import Link
from tests.promises.conftest import Play
from tests.promises.hypervisor import ACQUIRE_SECONDS, Hypervisor, hypervisor
from tests.promises.vm import Vm
from tests.promises.world import KEYS, World, disk, domain, locks

VM, OTHER = domain(1), domain(2)
X, Y, Z = disk("x"), disk("y"), disk("z")


def test_a_disk_of_a_dead_host_is_added_with_the_proof_and_its_domain_keeps_the_rest(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        await power_off(world, a, await a.start(OTHER, Y, Z))
        vm = await b.start(VM, X)
        await asyncio.sleep(world.timing.ttl_seconds + 1.0)
        with pytest.raises(HeldElsewhere, match="host a is silent"):
            await b.plug(vm, Y)
        await asyncio.sleep(world.timing.hold_off_seconds + 5.0)
        await b.plug(vm, Y)
        victim = a.record(OTHER)
        assert victim is not None
        assert [resource.name for resource in victim.record.resources] == [Z.name]
        mine = b.record(VM)
        assert mine is not None
        assert mine.record.resources == (X, Y)

    play(scenario)


def test_a_guest_of_a_host_that_ended_long_ago_starts_elsewhere_at_once_though_nobody_has_asked_before(
    play: Play,
) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        await power_off(world, a, await a.start(VM, X))
        await asyncio.sleep(world.timing.takeover_seconds + 1.0)
        assert (await b.start(VM, X)).runs

    play(scenario)


def test_an_agent_that_begins_after_another_host_ended_counts_from_its_beginning(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        await power_off(world, a, await a.start(VM, X))
        await asyncio.sleep(world.timing.ttl_seconds + 2.0)
        b = await hypervisor(world, "b")
        await asyncio.sleep(world.timing.hold_off_seconds + 1.0)
        assert (await b.start(VM, X)).runs

    play(scenario)


def test_no_proof_is_written_of_a_session_whose_host_has_joined_anew_with_all_its_locks(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, _ = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        world.etcd.revoke_wrongly(world.leases(a.host)[0])
        await asyncio.sleep(world.timing.takeover_seconds + 5.0)
        assert vm.runs
        assert world.obituaries() == []

    play(scenario)


def test_the_disk_of_a_host_that_joined_anew_meanwhile_is_not_added(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        await a.start(OTHER, Y)
        vm = await b.start(VM, X)
        world.etcd.revoke_wrongly(world.leases(a.host)[0])
        with pytest.raises(HeldElsewhere):
            await b.plug(vm, Y)
        await asyncio.sleep(world.timing.takeover_seconds + 5.0)
        with pytest.raises(HeldElsewhere, match="host a is alive"):
            await b.plug(vm, Y)

    play(scenario)


async def power_off(world: World, host: Hypervisor, *vms: Vm) -> None:
    host.host.store.cut()
    host.kill_agent()
    for vm in vms:
        vm.guest.kill()
    await asyncio.sleep(0)


def test_when_etcd_is_away_past_the_deadline_guests_are_killed_whether_they_run_or_are_suspended(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        running, resting = await a.start(VM, X), await a.start(OTHER, Y)
        a.pause(resting)
        await asyncio.sleep(0.1)
        a.host.store.cut()
        a.run_on(resting)
        await asyncio.sleep(60.0)
        for vm in (running, resting):
            assert vm.guest.killed_at is not None
            assert vm.guest.killed_at <= 0.2 + world.timing.stop_after_seconds
        a.host.store.mend()
        await asyncio.sleep(10.0)
        await a.start(OTHER, Y)
        await a.start(VM, X)

    play(scenario)


def test_a_guest_suspended_while_etcd_was_already_away_is_stopped_in_time_all_the_same(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        a.host.store.cut()
        await asyncio.sleep(5.0)
        a.pause(vm)
        with pytest.raises(EtcdlockError):
            await a.resume(vm)
        a.run_on(vm)
        await asyncio.sleep(60.0)
        assert vm.guest.killed_at is not None
        assert vm.guest.killed_at <= 0.1 + world.timing.stop_after_seconds

    play(scenario)


@pytest.mark.parametrize("same", [True, False], ids=["by its own domain", "by another domain"])
def test_a_guest_that_runs_on_unasked_on_a_host_cut_off_is_stopped_before_another_may_have_its_disks(
    play: Play, same: bool
) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a", death_seconds=world.timing.kill_seconds), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        a.pause(vm)
        await asyncio.sleep(0.1)
        a.run_on(vm)
        a.host.store.cut()
        heir = None
        while heir is None:
            with suppress(HeldElsewhere):
                heir = await b.start(VM if same else OTHER, X)
            await asyncio.sleep(0.5)
        assert vm.guest.gone_at is not None
        assert heir.runs

    play(scenario)


@pytest.mark.parametrize("after", [0.0, 0.0005, 0.1])
def test_a_guest_that_runs_on_unasked_keeps_its_locks_and_can_be_asked_for_and_moved(play: Play, after: float) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        a.pause(vm)
        await asyncio.sleep(after)
        a.run_on(vm)
        await asyncio.sleep(60.0)
        assert vm.runs
        with pytest.raises(HeldElsewhere):
            await b.start(OTHER, X)
        await a.resume(vm)
        a.pause(vm)
        await asyncio.sleep(0.1)
        a.run_on(vm)
        assert (await a.migrate(vm, b)).runs

    play(scenario)


def test_a_revoked_session_costs_nobody_anything_and_all_are_guarded_under_the_new_one(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        running, resting = await a.start(VM, X), await a.start(OTHER, Y)
        a.pause(resting)
        await asyncio.sleep(0.1)
        world.etcd.revoke_wrongly(world.leases(a.host)[0])
        await asyncio.sleep(5.0)
        (session,) = world.sessions(a.host)
        for who in (VM, OTHER):
            stored = a.record(who)
            assert stored is not None
            assert stored.record.owner == session
        await asyncio.sleep(60.0)
        assert (running.guest.killed_at, resting.guest.killed_at) == (None, None)
        a.host.store.cut()
        await asyncio.sleep(60.0)
        assert running.guest.killed_at is not None
        assert resting.guest.killed_at is not None

    play(scenario)


def test_a_guest_that_stops_while_its_lock_is_carried_over_is_guarded_like_before(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        world.etcd.revoke_wrongly(world.leases(a.host)[0])
        while not world.sessions(a.host):
            await asyncio.sleep(0.0005)
        a.pause(vm)
        await asyncio.sleep(60.0)
        assert vm.guest.killed_at is None
        a.host.store.cut()
        await asyncio.sleep(60.0)
        assert vm.guest.killed_at is not None

    play(scenario)


def test_an_acquire_while_etcd_is_away_ends_in_time_and_leaves_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        a.host.store.cut()
        begun = asyncio.get_running_loop().time()
        with pytest.raises(EtcdlockError):
            await a.start(VM, X)
        assert asyncio.get_running_loop().time() - begun <= ACQUIRE_SECONDS + 1.0
        a.host.store.cut(Link.UP)
        await asyncio.sleep(20.0)
        assert not world.etcd.contents(KEYS.domains)

    play(scenario)


def test_a_guest_that_runs_and_whose_lock_was_deleted_by_hand_is_killed_as_soon_as_that_is_seen(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        keys = (KEYS.domain(VM.uuid), KEYS.resource(X, uuid=VM.uuid))
        await a.host.store.txn(Txn((), tuple(Delete(KeyRange(key)) for key in keys)))
        with pytest.raises(Superseded, match="not locked by this guest any more"):
            await a.take(vm.owner, Y)
        assert vm.guest.killed_at is not None

    play(scenario, judged=False)  # the judge would rightly blame whoever has deleted it


def test_a_suspended_guest_that_the_next_agent_can_neither_take_in_nor_guard_is_stopped(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        a.pause(vm)
        await asyncio.sleep(0.1)
        a.kill_agent()
        world.etcd.revoke_wrongly(world.leases(a.host)[0])
        a.start_agent()
        a.stall.refuse = lambda txn: Unreachable("slow") if locks(txn) else None
        await asyncio.sleep(1.0)
        arrived = await b.start(VM, X, incoming=True)
        a.stall.refuse = lambda _txn: None
        await asyncio.sleep(1.0)
        assert vm.guest.killed_at is not None
        assert arrived.runs

    play(scenario)


@pytest.mark.parametrize("rests", [False, True], ids=["running", "suspended"])
def test_an_operator_who_declares_a_living_host_dead_ends_its_guest_whether_it_runs_or_is_suspended(
    play: Play, rests: bool
) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        if rests:
            a.pause(vm)
            await asyncio.sleep(0.1)
        (session,), (lease,) = world.sessions(a.host), world.leases(a.host)
        a.host.store.cut()
        world.etcd.revoke_wrongly(lease)
        assert await world.declare(b.host, session)
        heir = await b.start(VM, X)
        await asyncio.sleep(5.0)
        a.host.store.mend()
        await asyncio.sleep(5.0)
        assert vm.guest.killed_at is not None
        assert vm.guest.killed_at < world.timing.stop_after_seconds - 1.0  # at once, not at its deadline
        assert heir.runs

    play(scenario, judged=rests)  # the judge would rightly blame the operator
