"""What a host's agent does not know, it does not say: answers that are lost, come late, or come to a stalled agent."""

from __future__ import annotations

import asyncio

import pytest

from etcdlock.errors import EtcdlockError, GuardLost, HeldElsewhere, SessionLost, Superseded
from etcdlock.escalation import KILLED, Charge
from etcdlock.model import LockState
from etcdlock.ports import Guest
from etcdlock.testing import Fault
from etcdlock.testing.guests import FakeGuard
from tests.promises.conftest import Play
from tests.promises.hypervisor import ACQUIRE_SECONDS, Hypervisor, hypervisor
from tests.promises.world import KEYS, World, disk, domain, locks

VM, OTHER = domain(1), domain(2)
X, Y, Z = disk("x"), disk("y"), disk("z")


class TroubledGuard(FakeGuard):
    """One that takes its time to arm, or to say that it has, or does not arm at all."""

    seconds = 0.0
    silent_seconds = 0.0
    refuses = False

    async def arm(self, guest: Guest, /, *, session: str, charge: Charge = KILLED) -> None:
        await asyncio.sleep(self.seconds)
        if self.refuses:
            raise GuardLost("the guard does not answer")
        await super().arm(guest, session=session, charge=charge)
        await asyncio.sleep(self.silent_seconds)


async def troubled(world: World, name: str, *, death_seconds: float = 0.0) -> tuple[Hypervisor, TroubledGuard]:
    """A host and its guard, which is not yet in trouble."""
    host = Hypervisor(world, world.host(name), death_seconds=death_seconds)
    guard = TroubledGuard(host.host.clock, stop_after_seconds=world.timing.stop_after_seconds)
    host.guard.kill()
    host.guard = guard
    await host.bring_up()
    return host, guard


async def unheard(host: Hypervisor, fault: Fault, *, late: float = 0.0, away: float = 1.7) -> None:
    """Call it just before something is said to etcd: what becomes of it is not known, and etcd is away for a while."""
    sent = len(host.world.etcd.history)
    host.host.store.lose(fault, when=locks, delay_seconds=late)
    while not host.is_in_doubt(since=sent):
        await asyncio.sleep(0.0001)
    host.host.store.cut()
    await asyncio.sleep(away)
    host.host.store.mend()


@pytest.mark.parametrize("late", [1.71, 1.75, 3.0])
def test_a_guest_that_goes_on_is_not_parked_by_what_was_sent_before(play: Play, late: float) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        a.pause(vm)
        await unheard(a, Fault.LATE, late=late)
        await a.resume(vm)
        await asyncio.sleep(5.0)
        assert a.state(VM) is LockState.HELD
        with pytest.raises(HeldElsewhere):
            await b.start(VM, X, incoming=True)

    play(scenario)


@pytest.mark.parametrize("late", [1.71, 1.75, 3.0])
def test_a_disk_that_comes_back_is_not_given_up_by_what_was_sent_before(play: Play, late: float) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X, Y)
        a.unplug(vm, Y)
        await unheard(a, Fault.LATE, late=late)
        await a.plug(vm, Y)
        await asyncio.sleep(5.0)
        assert vm.runs

    play(scenario)


def test_a_source_that_never_heard_that_it_had_parked_does_not_run_on_what_was_claimed_since(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        a.pause(vm)
        await unheard(a, Fault.ANSWER, away=1.0)
        a.host.store.cut()
        await b.start(VM, X, incoming=True)
        await asyncio.sleep(1.0)
        a.host.store.mend()
        with pytest.raises(Superseded):
            await a.resume(vm)

    play(scenario)


def test_a_destination_that_is_tried_again_after_a_claim_nobody_heard_of_gets_the_guest(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        a.pause(vm)
        await asyncio.sleep(0.1)
        first = asyncio.ensure_future(b.start(VM, X, incoming=True))
        await unheard(b, Fault.ANSWER, away=12.0)
        with pytest.raises(EtcdlockError):
            await first
        while a.state(VM) is not LockState.PARKED:  # the claim goes back; a destination begun before that is refused
            await asyncio.sleep(0.1)
        second = await b.start(VM, X, incoming=True)
        vm.guest.end()
        await asyncio.sleep(5.0)
        assert second.runs

    play(scenario)


def test_a_resume_whose_outcome_nobody_knows_leaves_the_guest_parked(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        a.pause(vm)
        await asyncio.sleep(0.1)
        resuming = asyncio.ensure_future(a.resume(vm))
        await unheard(a, Fault.ANSWER, away=9.0)
        with pytest.raises(EtcdlockError):
            await resuming
        await asyncio.sleep(5.0)
        assert a.state(VM) is LockState.PARKED
        await b.start(VM, X, incoming=True)

    play(scenario)


@pytest.mark.parametrize("end", ["unplugged", "suspended"])
def test_what_etcd_is_told_late_is_told_though_a_disk_came_meanwhile(play: Play, end: str) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X, Y)
        a.host.store.cut()
        if end == "unplugged":
            a.unplug(vm, Y)
        else:
            a.pause(vm)
        await asyncio.sleep(2.0)
        a.host.store.mend()
        await a.plug(vm, Z)
        await asyncio.sleep(5.0)
        stored = a.record(VM)
        assert stored is not None
        assert (Y in stored.record.resources) == (end == "suspended")
        assert (stored.record.state is LockState.PARKED) == (end == "suspended")

    play(scenario)


def test_a_disk_closed_and_plugged_again_while_etcd_was_away_leaves_a_suspended_guest_suspended(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X, Y)
        a.pause(vm)
        await asyncio.sleep(0.1)
        a.host.store.cut()
        a.unplug(vm, Y)
        await asyncio.sleep(2.0)
        a.host.store.mend()
        await a.plug(vm, Y)
        await asyncio.sleep(3.0)
        assert a.state(VM) is LockState.PARKED

    play(scenario)


def test_a_rejoin_that_was_done_unheard_under_a_session_lost_since_costs_no_guest(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        first = world.sessions(a.host)
        a.host.store.lose(Fault.ANSWER, when=locks)
        world.etcd.revoke_wrongly(world.leases(a.host)[0])
        while (stored := a.record(VM)) is None or [stored.record.owner] == first:
            await asyncio.sleep(0.0002)
        a.host.store.cut()
        world.etcd.revoke_wrongly(world.leases(a.host)[0])
        await asyncio.sleep(4.0)
        a.host.store.mend()
        await asyncio.sleep(40.0)
        assert vm.runs

    play(scenario)


# --- an agent or a guard in trouble -----------------------------------------------------------------------------------


def test_a_yes_that_comes_after_the_door_has_stopped_waiting_is_none_and_the_claim_goes_back(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        a.pause(vm)
        await asyncio.sleep(0.1)
        asking = asyncio.ensure_future(b.start(VM, X, incoming=True))
        await asyncio.sleep(0.003)
        b.stall.begin()
        await asyncio.sleep(ACQUIRE_SECONDS + 3.0)
        with pytest.raises(EtcdlockError):
            await asking
        b.stall.end()
        await asyncio.sleep(2.0)
        await a.resume(vm)

    play(scenario)


def test_a_guest_past_its_deadline_that_does_not_die_is_told_no(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        vm.guest.stuck = True
        a.host.store.cut()
        await asyncio.sleep(world.timing.stop_after_seconds + 1.0)
        with pytest.raises(EtcdlockError):
            await a.take(vm.owner, X)

    play(scenario)


@pytest.mark.parametrize("how", ["resumed", "migrated", "carried over"])
def test_a_guest_that_runs_is_guarded_however_it_came_to_run(play: Play, how: str) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm, host = await a.start(VM, X), a
        if how == "migrated":
            vm, host = await a.migrate(vm, b), b
        else:
            a.pause(vm)
            await asyncio.sleep(0.1)
            if how == "carried over":
                world.etcd.revoke_wrongly(world.leases(a.host)[0])
                await asyncio.sleep(3.0)
            await a.resume(vm)
        host.host.store.cut()
        await asyncio.sleep(60.0)
        assert vm.guest.killed_at is not None

    play(scenario)


def test_a_suspended_guest_that_cannot_be_guarded_stays_suspended_and_unharmed_while_its_session_is_proven(
    play: Play,
) -> None:
    async def scenario(world: World) -> None:
        a, guard = await troubled(world, "a")
        vm = await a.start(VM, X)
        a.pause(vm)
        await asyncio.sleep(0.1)
        guard.refuses = True
        with pytest.raises(GuardLost):
            await a.resume(vm)
        await asyncio.sleep(60.0)
        assert a.state(VM) is LockState.PARKED
        assert vm.guest.killed_at is None

    play(scenario)


def test_a_resume_that_is_known_to_be_guarded_only_after_the_deadline_is_no_yes(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, guard = await troubled(world, "a")
        a.pause(await a.start(VM, X))
        await asyncio.sleep(0.1)
        guard.silent_seconds = world.timing.stop_after_seconds + 1.0
        assert a.agent is not None
        unparking = asyncio.ensure_future(a.agent.ledger.unpark(VM.uuid, until=1000.0))
        while a.state(VM) is LockState.PARKED:
            await asyncio.sleep(0.0001)
        await asyncio.sleep(0.01)  # it has been answered, too
        a.host.store.cut()
        with pytest.raises(SessionLost):
            await unparking

    play(scenario)


def test_a_destination_that_cannot_guard_the_guest_hands_it_back(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, (b, guard) = await hypervisor(world, "a"), await troubled(world, "b", death_seconds=5.0)
        vm = await a.start(VM, X)
        guard.refuses = True
        with pytest.raises(GuardLost):
            await a.migrate(vm, b)
        assert vm.runs

    play(scenario)


def test_a_destination_that_dies_slowly_has_handed_the_guest_back_by_then(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b", death_seconds=5.0)
        vm = await a.start(VM, X)
        await a.start(OTHER, Z)
        a.pause(vm)
        with pytest.raises(HeldElsewhere):
            await b.start(VM, Z, X, incoming=True)
        await a.resume(vm)

    play(scenario)


def test_a_lock_for_a_guest_that_could_not_be_guarded_is_no_yes_later_either(play: Play) -> None:
    """Its giving back failed, too."""

    async def scenario(world: World) -> None:
        a, guard = await troubled(world, "a")
        vm = a.prepare(VM, X)
        guard.refuses = True
        asking = asyncio.ensure_future(a.take(vm.owner, X))
        while not world.etcd.contents(KEYS.domains):
            await asyncio.sleep(0.0001)
        await asyncio.sleep(0.002)
        a.host.store.cut()
        with pytest.raises(EtcdlockError):
            await asking
        a.host.store.mend()
        with pytest.raises(GuardLost):
            await a.take(vm.owner, X)

    play(scenario)
