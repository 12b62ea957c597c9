"""An agent may be killed, ended and started again with guests running: they keep their locks, and nothing is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from etcdlock.agent.enforcer import Enforcer
from etcdlock.agent.member import Member
from etcdlock.errors import AccessDenied, HeldElsewhere, Unreachable
from etcdlock.model import LockState, SessionKind
from etcdlock.ports import KeyRange, Put, Txn
from etcdlock.testing import Fault
from tests.promises.conftest import Play
from tests.promises.hypervisor import Hypervisor, hypervisor
from tests.promises.judge import left_behind
from tests.promises.stalled import Stall
from tests.promises.vm import Vm
from tests.promises.world import KEYS, World, disk, domain, locks

VM, OTHER, THIRD = domain(1), domain(2), domain(3)
X, Y, Z = disk("x"), disk("y"), disk("z")

Doing = Callable[[Hypervisor, Hypervisor, Vm], Coroutine[object, object, object]]


async def restarted(host: Hypervisor, *, away: float = 0.5) -> None:
    host.kill_agent()
    await asyncio.sleep(away)
    await host.bring_up()


async def works(host: Hypervisor, vm: Vm, other: Hypervisor) -> Vm:
    """Everything that may become of a guest still can; it ends up on the other host."""
    if not vm.runs:
        await host.resume(vm)
    host.pause(vm)
    await asyncio.sleep(0.1)
    assert host.state(VM) is LockState.PARKED
    await host.resume(vm)
    await host.plug(vm, Z)
    host.unplug(vm, Z)
    arrived = await host.migrate(vm, other)
    await asyncio.sleep(2.0)
    stored = other.record(VM)
    assert stored is not None
    assert Z not in stored.record.resources
    return arrived


def test_a_new_agent_goes_on_with_the_session_and_everything_still_works(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X, Y)
        before, session = a.record(VM), world.sessions(a.host)
        await restarted(a)
        assert (a.record(VM), world.sessions(a.host)) == (before, session)
        await asyncio.sleep(30.0)
        assert world.sessions(a.host) == session
        await works(a, vm, b)

    play(scenario)


@pytest.mark.parametrize("away", [11.5, 16.0])
def test_where_the_session_has_ended_meanwhile_another_one_carries_the_guests_on_with_their_tokens(
    play: Play, away: float
) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm, resting = await a.start(VM, X, Y), await a.start(OTHER, Z)
        a.pause(resting)
        await asyncio.sleep(0.1)
        a.kill_agent()
        await asyncio.sleep(away)
        assert not world.sessions(a.host)
        await a.bring_up()
        await asyncio.sleep(0.1)
        stored = a.record(VM)
        assert stored is not None
        assert ([stored.record.owner], stored.token) == (world.sessions(a.host), vm.token)
        await a.resume(resting)
        resting.guest.end()
        await works(a, vm, b)

    play(scenario)


def test_guests_that_have_ended_meanwhile_are_given_back_even_if_their_pids_are_used_again(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        gone, reused, resting = await a.start(VM, X), await a.start(OTHER, Y), await a.start(THIRD, Z)
        a.pause(resting)
        await asyncio.sleep(0.1)
        a.kill_agent()
        for vm in (gone, reused, resting):
            vm.guest.end()
        stranger = a.processes.start(pid=reused.owner.pid)
        await a.bring_up()
        await asyncio.sleep(0.1)
        assert not world.etcd.contents(KEYS.resources)
        assert stranger.gone_at is None
        await b.start(OTHER, X, Y, Z)
        await asyncio.sleep(30.0)
        assert stranger.killed_at is None

    play(scenario)


def test_new_guests_of_the_new_agent_are_guarded_like_the_adopted_ones(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        adopted = await a.start(VM, X)
        resting = await a.start(THIRD, Z)
        a.pause(resting)
        await asyncio.sleep(0.1)
        await restarted(a)
        new = await a.start(OTHER, Y)
        cut_at = asyncio.get_running_loop().time()
        a.host.store.cut()
        await asyncio.sleep(60.0)
        for vm in (adopted, new, resting):
            assert vm.guest.killed_at is not None
            assert vm.guest.killed_at <= cut_at + world.timing.stop_after_seconds + 0.1

    play(scenario)


def test_what_etcdlock_run_holds_on_the_host_is_left_alone(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        run = world.start(a.host, OTHER, Y)
        guest = await world.until_runs(run)
        await a.start(VM, X)
        assert a.agent is not None
        session = a.agent.member.session.ref
        before = a.record(OTHER)
        await restarted(a)
        assert a.agent.member.session.ref == session
        await asyncio.sleep(5.0)
        assert a.record(OTHER) == before
        assert guest.runs
        assert len(a.agent.residents) == 1

    play(scenario)


def test_another_host_on_the_same_kernel_keeps_what_is_its_own(play: Play) -> None:
    """As containers are: they share a boot, and see nothing of each other's processes."""

    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a", boot="shared"), await hypervisor(world, "b", boot="shared")
        vm = await a.start(VM, X)
        await restarted(b)
        await asyncio.sleep(5.0)
        assert (a.state(VM), vm.runs) == (LockState.HELD, True)

    play(scenario)


def test_after_a_reset_nothing_is_adopted_but_the_disks_may_be_taken_at_once(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        old = await a.start(OTHER, Y)
        a.host.store.cut()
        a.kill_agent()
        old.guest.kill()
        again = Hypervisor(world, world.boot_again(a.host, boot="the next"))
        await again.bring_up()
        await asyncio.sleep(3.0)
        assert again.record(OTHER) is not None
        vm = await again.start(VM, X)
        await again.plug(vm, Y)
        left = again.record(OTHER)
        assert left is not None
        assert left.record.resources == ()

    play(scenario)


def test_a_record_that_cannot_be_read_is_passed_over_and_stays(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        broken = KEYS.domain(OTHER.uuid)
        await world.etcd.client("vandal").txn(Txn((), (Put(broken, b"{"),)))
        await restarted(a)
        await asyncio.sleep(5.0)
        assert vm.runs
        assert world.etcd.contents(KeyRange(broken))

    play(scenario, judged=False)  # the judge cannot read it either


def test_a_domain_that_cannot_be_carried_over_costs_no_other_guest(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        stubborn, vm = await a.start(OTHER, Y), await a.start(VM, X)
        a.kill_agent()
        await asyncio.sleep(12.0)
        coming = a.start_agent()
        a.stall.refuse = lambda txn: AccessDenied("no") if writes(txn, KEYS.domain(OTHER.uuid)) else None
        await asyncio.sleep(1.0)
        stored = a.record(VM)
        assert stored is not None
        assert [stored.record.owner] == world.sessions(a.host)
        await asyncio.sleep(25.0)
        assert not coming.done()
        assert (stubborn.runs, vm.runs) == (False, True)

    play(scenario)


def writes(txn: Txn, key: str) -> bool:
    return any(isinstance(op, Put) and op.key == key for op in txn.success)


@pytest.mark.parametrize("rests", [False, True], ids=["running", "suspended"])
def test_a_guest_whose_lock_was_taken_while_no_agent_ran_is_killed_whether_it_runs_or_is_suspended(
    play: Play, rests: bool
) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        if rests:
            a.pause(vm)
            await asyncio.sleep(0.1)
        (session,), (lease,) = world.sessions(a.host), world.leases(a.host)
        a.kill_agent()
        world.etcd.revoke_wrongly(lease)
        a.start_agent()
        a.stall.refuse = lambda txn: Unreachable("slow") if locks(txn) else None
        await asyncio.sleep(1.0)
        assert await world.declare(b.host, session)
        await b.start(VM, X)
        a.stall.refuse = lambda _txn: None
        await asyncio.sleep(1.0)
        assert vm.guest.killed_at is not None

    play(scenario, judged=rests)  # the judge would rightly blame the operator


LATE: dict[str, Callable[[Hypervisor, Vm], None]] = {
    "parking": lambda a, vm: a.pause(vm),
    "giving a disk up": lambda a, vm: a.unplug(vm, Y),
    "giving all back": lambda _a, vm: vm.guest.end(),
}


@pytest.mark.parametrize("what", LATE)
@pytest.mark.parametrize("delay", [1.0, 4.0, 20.0])
def test_nothing_that_the_dead_agent_had_sent_commits_once_another_has_taken_up_its_session(
    play: Play, what: str, delay: float
) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X, Y)
        a.host.store.lose(Fault.LATE, when=locks, delay_seconds=delay)
        LATE[what](a, vm)
        await asyncio.sleep(0.0001)
        a.kill_agent()
        await a.bring_up()
        if vm.guest.gone_at is None:
            vm.disks = [X, Y]
            a.processes.open(vm.guest, Y)
            a.pause(vm)
            await a.resume(vm)
        else:
            vm = await a.start(VM, X, Y)
        await asyncio.sleep(2 * delay)
        assert vm.runs

    play(scenario)


def test_every_session_that_the_dead_agent_may_have_left_is_closed_to_what_is_under_way(play: Play) -> None:
    """A join that it gave up leaves a second one, for as long as its lease lives."""

    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        stall = Stall()
        context = a.host.context(
            contract=world.contract, chance=world.fresh_chance(), kind=SessionKind.AGENT, stall=stall
        )
        await Member(context, guard=Enforcer(context.clock, timing=world.timing)).join(until=context.clock.now())
        stall.kill()
        a.host.store.lose(Fault.LATE, when=locks, delay_seconds=3.0)
        starting = asyncio.ensure_future(a.start(VM, X))
        await asyncio.sleep(0.001)
        a.kill_agent()
        await a.bring_up()
        await asyncio.gather(starting, return_exceptions=True)
        assert len(world.sessions(a.host)) == 2
        await asyncio.sleep(4.0)
        assert a.record(VM) is None

    play(scenario)


async def starting(a: Hypervisor, _b: Hypervisor, vm: Vm) -> None:
    vm.guest.end()
    await a.start(VM, X, Y)


async def suspending(a: Hypervisor, _b: Hypervisor, vm: Vm) -> None:
    a.pause(vm)


async def resuming(a: Hypervisor, _b: Hypervisor, vm: Vm) -> None:
    a.pause(vm)
    await asyncio.sleep(0.006)
    await a.resume(vm)


async def plugging(a: Hypervisor, _b: Hypervisor, vm: Vm) -> None:
    await a.plug(vm, Z)
    a.unplug(vm, Z)


async def migrating(a: Hypervisor, b: Hypervisor, vm: Vm) -> None:
    await a.migrate(vm, b)


async def migrating_back(a: Hypervisor, b: Hypervisor, vm: Vm) -> None:
    await b.migrate(await a.migrate(vm, b), a)


@pytest.mark.parametrize("millisecond", range(0, 24, 2))
@pytest.mark.parametrize("killed", ["a", "b", "both"])
@pytest.mark.parametrize("doing", [starting, suspending, resuming, plugging, migrating, migrating_back])
def test_an_agent_killed_at_any_instant_costs_no_guest_that_runs_and_never_makes_two(
    play: Play, doing: Doing, killed: str, millisecond: int
) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X, Y)
        bystander = await a.start(OTHER, disk("w"))
        under_way = asyncio.ensure_future(doing(a, b, vm))
        await asyncio.sleep(millisecond / 1000)
        victims = {"a": [a], "b": [b], "both": [a, b]}[killed]
        for host in victims:
            host.kill_agent()
        await asyncio.sleep(0.002)
        for host in victims:
            await host.bring_up()
        await asyncio.gather(under_way, return_exceptions=True)
        await asyncio.sleep(30.0)
        assert bystander.runs
        assert all(guest.guest.killed_at is None for guest in (*a.vms, *b.vms) if guest.spans and guest.runs)
        await everything_ends(world, a, b)

    play(scenario)


async def everything_ends(world: World, *hosts: Hypervisor) -> None:
    """Once the guests are gone, nothing is locked; the agents end in order and nothing is left."""
    for host in hosts:
        for vm in host.vms:
            vm.guest.end()
    await asyncio.sleep(30.0)
    assert not world.etcd.contents(KEYS.domains)
    for host in hosts:
        await host.stop_agent()
    assert left_behind(world) == []


def test_joining_that_is_refused_is_told_as_it_is(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = Hypervisor(world, world.host("a"))
        a.stall.refuse = lambda _txn: None
        running = a.start_agent()
        a.stall.refuse = lambda _txn: AccessDenied("permission denied")
        with pytest.raises(AccessDenied, match="permission denied"):
            await running

    play(scenario)


def test_a_guest_that_no_record_names_is_taken_like_a_new_one(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = Hypervisor(world, world.host("a")), await hypervisor(world, "b")
        vm = a.prepare(VM, X)
        await a.bring_up()
        await a.resume(vm)
        with pytest.raises(HeldElsewhere):
            await b.start(OTHER, X)

    play(scenario)
