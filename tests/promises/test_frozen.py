"""A frozen guest sits an outage out: it runs on if nobody had its lock meanwhile, and is killed if somebody had."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from etcdlock.errors import AccessDenied, EtcdlockError, InvalidDomainXml
from etcdlock.escalation import Action
from etcdlock.model import DomainId
from etcdlock.ports import Guest, GuestName, Txn
from etcdlock.testing import FakeGuard, FakeGuest
from tests.promises.conftest import Play
from tests.promises.hypervisor import Hypervisor
from tests.promises.vm import Vm
from tests.promises.world import Run, World, disk, domain

OUTAGE_SECONDS = 600.0
SOON_SECONDS = 10.0

both_ways = pytest.mark.parametrize("guarded", [True, False], ids=["with a guard", "by itself"])


def now() -> float:
    return asyncio.get_running_loop().time()


def denied(_: Txn) -> EtcdlockError:
    return AccessDenied("not now")


async def running(world: World, *, guarded: bool) -> tuple[Run, FakeGuest]:
    run = world.start(world.host("a"), domain(1), disk("x"), guarded=guarded, action=Action.FREEZE)
    return run, await world.until_runs(run)


@both_ways
def test_a_guest_stands_through_an_outage_of_ten_minutes_and_then_runs_on(play: Play, guarded: bool) -> None:
    async def scenario(world: World) -> None:
        run, guest = await running(world, guarded=guarded)
        token = guest.token
        run.host.store.cut()
        cut_at = now()
        await asyncio.sleep(OUTAGE_SECONDS)
        assert guest.stands()
        assert guest.killed_at is None
        run.host.store.mend()
        await asyncio.sleep(SOON_SECONDS)
        assert guest.runs
        (_, stood_at), (went_on_at, still) = guest.ran
        assert stood_at is not None
        assert stood_at <= cut_at + world.timing.stop_after_seconds
        assert went_on_at >= cut_at + OUTAGE_SECONDS
        assert (still, guest.token) == (None, token)
        await asyncio.sleep(OUTAGE_SECONDS)
        assert guest.runs, "it is proven again and again"

    play(scenario)


@both_ways
def test_a_guest_whose_very_session_is_proven_again_runs_on(play: Play, guarded: bool) -> None:
    """As when etcd takes keepalives and no transactions: the session's key stands all the while."""

    async def scenario(world: World) -> None:
        run, guest = await running(world, guarded=guarded)
        before = world.sessions(run.host)
        run.host.stall.refuse = denied
        await asyncio.sleep(60.0)
        assert guest.stands()
        run.host.stall.refuse = lambda _: None
        await asyncio.sleep(SOON_SECONDS)
        assert guest.runs
        assert world.sessions(run.host) == before

    play(scenario)


@both_ways
def test_a_guest_whose_lock_was_taken_over_while_it_stood_is_killed_and_never_runs_again(
    play: Play, guarded: bool
) -> None:
    async def scenario(world: World) -> None:
        run, guest = await running(world, guarded=guarded)
        second = world.start(world.host("b"), domain(2), disk("x"), wait=200.0)
        run.host.store.cut()
        successor = await world.until_runs(second)
        assert guest.stands()
        run.host.store.mend()
        await asyncio.sleep(SOON_SECONDS)
        assert guest.gone_at is not None
        assert len(guest.ran) == 1
        assert successor.runs

    play(scenario)


@both_ways
def test_a_guest_that_somebody_else_lets_run_is_killed(play: Play, guarded: bool) -> None:
    async def scenario(world: World) -> None:
        run, guest = await running(world, guarded=guarded)
        run.host.store.cut()
        await asyncio.sleep(30.0)
        assert guest.stands()
        guest.go_on()
        await asyncio.sleep(1.0)
        assert guest.killed_at is not None

    play(scenario)


def test_a_second_outage_freezes_it_once_more(play: Play) -> None:
    async def scenario(world: World) -> None:
        run, guest = await running(world, guarded=True)
        for _ in range(3):
            run.host.store.cut()
            await asyncio.sleep(60.0)
            assert guest.stands()
            run.host.store.mend()
            await asyncio.sleep(SOON_SECONDS)
            assert guest.runs
        assert len(guest.ran) == 4

    play(scenario)


async def frozen_without_agent(world: World) -> tuple[Hypervisor, Vm]:
    """A host whose guest stands, cut off, and whose agent is dead."""
    a = Hypervisor(world, world.host("a"))
    a.action = Action.FREEZE
    await a.bring_up()
    vm = await a.start(domain(1), disk("x"))
    a.host.store.cut()
    a.kill_agent()
    await asyncio.sleep(world.timing.budget_seconds)
    assert vm.guest.stands()
    return a, vm


def test_a_guest_that_was_frozen_runs_on_under_a_restarted_agent_once_the_earlier_guard_has_ended(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, vm = await frozen_without_agent(world)
        a.host.store.mend()
        agent = await a.bring_up()
        await agent.all_inherited.wait()
        await asyncio.sleep(3 * world.timing.renew_every_seconds)
        assert vm.guest.stands(), "the earlier guard would take it for somebody else's doing"
        await agent.ledger.custody.earlier_guards_ended()
        assert not vm.guest.stands()
        await asyncio.sleep(OUTAGE_SECONDS)
        assert not vm.guest.stands()
        assert vm.guest.killed_at is None

    play(scenario)


@pytest.mark.parametrize("number", [1, 2], ids=["its domain", "a disk of it"])
def test_a_restarted_agent_kills_the_frozen_guest_of_which_something_was_taken_over(play: Play, number: int) -> None:
    async def scenario(world: World) -> None:
        a, vm = await frozen_without_agent(world)
        await world.until_runs(world.start(world.host("b"), domain(number), disk("x"), wait=200.0))
        a.host.store.mend()
        agent = await a.bring_up()
        await agent.all_inherited.wait()
        await agent.ledger.custody.earlier_guards_ended()
        await asyncio.sleep(SOON_SECONDS)
        assert vm.guest.killed_at is not None or vm.guest.stands()
        assert number == 1 or vm.guest.killed_at is not None

    play(scenario, judged=False)


def test_a_guests_own_choice_counts_before_its_hosts(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = Hypervisor(world, world.host("a"))
        a.own_action = lambda _guest, who: Action.FREEZE if who == domain(1) else None
        await a.bring_up()
        own, others = await a.start(domain(1), disk("x")), await a.start(domain(2), disk("y"))
        a.host.store.cut()
        await asyncio.sleep(OUTAGE_SECONDS)
        assert others.guest.gone_at is not None
        assert own.guest.stands()
        a.host.store.mend()
        await asyncio.sleep(SOON_SECONDS)
        assert own.runs
        assert not own.guest.stands()

    play(scenario)


def test_a_guest_whose_choice_cannot_be_kept_gets_no_locks(play: Play) -> None:
    def ignore(_guest: Guest, _who: DomainId) -> Action:
        raise InvalidDomainXml("'ignore' cannot be kept")

    async def scenario(world: World) -> None:
        a = Hypervisor(world, world.host("a"))
        a.own_action = ignore
        await a.bring_up()
        with pytest.raises(InvalidDomainXml):
            await a.start(domain(1), disk("x"))
        assert a.record(domain(1)) is None

    play(scenario)


class Asked(FakeGuard):
    """How often it was asked who is frozen."""

    times = 0

    @property
    def frozen(self) -> frozenset[GuestName]:
        self.times += 1
        return super().frozen


@pytest.mark.parametrize("count", [1, 40])
def test_a_proof_does_not_ask_for_each_guest_whether_it_is_frozen(play: Play, count: int) -> None:
    async def scenario(world: World) -> None:
        a = Hypervisor(world, world.host("a"))
        a.guard = guard = Asked(a.host.clock, stop_after_seconds=world.timing.stop_after_seconds)
        await a.bring_up()
        for number in range(count):
            await a.start(domain(number), disk(f"d{number}"))
        before = guard.times
        await asyncio.sleep(10 * world.timing.renew_every_seconds)
        assert 0 < guard.times - before <= 20

    play(scenario)


class SlowToBelieve(FakeGuard):
    """It takes in a proof some time after it was told."""

    async def prove(self, session: str, /, *, at: float) -> None:
        await asyncio.sleep(0.5)
        await super().prove(session, at=at)


def test_who_asks_whether_a_frozen_guest_may_run_is_told_yes_only_once_it_has_been_let_go_on(play: Play) -> None:
    """It would be killed for it."""

    async def scenario(world: World) -> None:
        a, who = Hypervisor(world, world.host("a")), domain(1)
        a.action = Action.FREEZE
        a.guard.kill()
        a.guard = SlowToBelieve(a.host.clock, stop_after_seconds=world.timing.stop_after_seconds)
        agent = await a.bring_up()
        vm, as_ever = await a.start(who, disk("x")), a.stall.refuse
        a.stall.refuse = denied
        await asyncio.sleep(world.timing.stop_after_seconds + 2.0)
        assert vm.guest.frozen
        a.stall.refuse = as_ever
        is_told_yes = False
        while not is_told_yes:
            await asyncio.sleep(0.01)
            with suppress(EtcdlockError):
                is_told_yes = bool(await agent.ledger.unpark(who.uuid, until=a.host.clock.now()))
        assert not vm.guest.frozen

    play(scenario)
