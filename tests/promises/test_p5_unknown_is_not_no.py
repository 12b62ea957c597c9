"""A lost answer is settled, never guessed; no retry takes a second lock or frees somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from etcdlock.errors import AccessDenied, EtcdlockError, HeldElsewhere, OutcomeUnknown
from etcdlock.ports import Delete, Put, Txn
from etcdlock.testing import Applied, Fault
from tests.promises.conftest import Play
from tests.promises.judge import left_behind
from tests.promises.world import KEYS, Agent, World, disk, domain, locks

Pick = Callable[[Txn], bool]

LATE = [0.05, 0.5, 5.0, 30.0]
FAULTS = [(Fault.REQUEST, 0.0), (Fault.ANSWER, 0.0), *((Fault.LATE, delay) for delay in LATE)]


def puts(folder: str) -> Pick:
    return lambda txn: any(isinstance(op, Put) and op.key.startswith(folder) for op in txn.success)


def deletes(folder: str) -> Pick:
    return lambda txn: any(isinstance(op, Delete) and op.where.key.startswith(folder) for op in txn.success)


STEPS = {
    "joining or a barrier": puts(KEYS.sessions().key),
    "taking": puts(KEYS.domains.key),
    "giving back": deletes(KEYS.domains.key),
    "leaving": deletes(KEYS.sessions().key),
    "a heartbeat": deletes(KEYS.never),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("fault", "delay"), FAULTS, ids=[f"{fault} {delay:g}" for fault, delay in FAULTS])
@pytest.mark.parametrize("count", [1, 3])
def test_whatever_answer_is_lost_the_guest_runs_once_and_nothing_is_left_behind(
    play: Play, step: str, fault: Fault, delay: float, count: int
) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        a.store.lose(fault, count=count, when=STEPS[step], delay_seconds=delay)
        run = world.start(a, domain(1), disk("x"), disk("y"), life=1.0)
        ending = await run.ended
        assert ending.status.code == 0
        assert sum(guest.opened_at is not None for guest in run.guests.started) == 1
        await asyncio.sleep(60.0)
        assert left_behind(world) == []

    play(scenario)


@pytest.mark.parametrize("delay", [0.3, 2.0, 20.0])
def test_a_lock_whose_taking_is_under_way_while_it_is_settled_used_and_given_back_never_comes_back(
    play: Play, delay: float
) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        agent = await world.agent(a)
        a.store.lose(Fault.LATE, when=locks, delay_seconds=delay)
        await agent.acquire(domain(1), disk("x"))
        await agent.release(domain(1))
        await asyncio.sleep(2 * delay)
        assert not world.etcd.contents(KEYS.domains)
        assert not world.etcd.contents(KEYS.resources)
        assert any(is_late(entry, delay) for entry in world.etcd.history)

    play(scenario)


def is_late(entry: object, delay: float) -> bool:
    return isinstance(entry, Applied) and locks(entry.txn) and entry.instant > delay


async def taken_unheard(world: World, agent: Agent) -> asyncio.Task[object]:
    """A lock that is there, before its taker can have heard so; the answer is lost."""
    host = world.hosts[-1]
    host.store.lose(Fault.ANSWER, when=locks)
    taking = asyncio.ensure_future(agent.acquire(domain(1), disk("x")))
    while not world.etcd.contents(KEYS.domains):
        await asyncio.sleep(0.0001)
    return taking


def test_what_could_not_be_settled_is_given_back_as_soon_as_etcd_answers(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        agent = await world.agent(a)
        taking = await taken_unheard(world, agent)
        a.store.cut()
        with pytest.raises(OutcomeUnknown):
            await taking
        assert [agent.ledger.unsettled] == [True]
        a.store.mend()
        await asyncio.sleep(5.0)
        assert [agent.ledger.unsettled] == [False]
        assert not world.etcd.contents(KEYS.domains)
        await agent.acquire(domain(1), disk("x"))

    play(scenario)


def test_nothing_new_is_taken_on_a_domain_before_what_was_unknown_of_it_is_settled(play: Play) -> None:
    """Its own earlier lock would otherwise be named as the one in the way."""

    async def scenario(world: World) -> None:
        agent = await world.agent(world.host("a"))
        taking = await taken_unheard(world, agent)
        taking.cancel()
        await asyncio.wait((taking,))
        assert agent.ledger.unsettled
        stored, _ = await agent.acquire(domain(1), disk("x"), disk("y"))
        assert len(stored.record.resources) == 2

    play(scenario)


@pytest.mark.parametrize("delay", [0.3, 2.0, 20.0])
def test_a_giving_back_that_commits_late_frees_nothing_of_who_has_it_now(play: Play, delay: float) -> None:
    async def scenario(world: World) -> None:
        a, b = world.host("a"), world.host("b")
        a.store.lose(Fault.LATE, when=deletes(KEYS.domains.key), delay_seconds=delay)
        first = world.start(a, domain(1), disk("x"), life=1.0)
        second = world.start(b, domain(1), disk("x"), wait=30.0)
        await world.until_runs(second)
        await first.ended
        await asyncio.sleep(2 * delay)
        with pytest.raises(HeldElsewhere):
            await world.start(world.host("c"), domain(2), disk("x")).ended

    play(scenario)


@pytest.mark.parametrize("fault", [Fault.ANSWER, Fault.LATE, Fault.REQUEST])
def test_a_lost_rejoin_leaves_the_guest_running_with_its_token(play: Play, fault: Fault) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        guest = await world.until_runs(world.start(a, domain(1), disk("x")))
        a.store.lose(fault, count=2, when=locks, delay_seconds=1.0)
        world.etcd.revoke_wrongly(world.leases(a)[0])
        await asyncio.sleep(60.0)
        assert guest.runs

    play(scenario)


def test_a_rejoin_that_was_done_but_could_not_be_settled_at_once_still_saves_the_guest(play: Play) -> None:
    """Every barrier is lost as well, until the re-join is tried anew and finds its own work."""

    async def scenario(world: World) -> None:
        a = world.host("a")
        guest = await world.until_runs(world.start(a, domain(1), disk("x")))
        a.store.lose(Fault.ANSWER, count=1, when=locks)
        world.etcd.revoke_wrongly(world.leases(a)[0])
        before = len(world.etcd.history)
        while not any(_rejoined(entry) for entry in world.etcd.history[before:]):
            await asyncio.sleep(0.0005)
        a.store.cut()
        await asyncio.sleep(12.0)
        a.store.mend()
        await asyncio.sleep(60.0)
        assert guest.runs

    play(scenario)


def test_a_rejoin_whose_settling_is_refused_for_a_while_finds_its_own_work_and_saves_the_guest(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        guest = await world.until_runs(world.start(a, domain(1), disk("x")))
        a.store.lose(Fault.ANSWER, when=locks)
        world.etcd.revoke_wrongly(world.leases(a)[0])
        before = len(world.etcd.history)
        while not any(_rejoined(entry) for entry in world.etcd.history[before:]):
            await asyncio.sleep(0.0002)
        a.stall.refuse = barriers_denied
        await asyncio.sleep(3.0)
        a.stall.refuse = lambda _txn: None
        await asyncio.sleep(60.0)
        assert guest.runs

    play(scenario)


def barriers_denied(txn: Txn) -> EtcdlockError | None:
    return AccessDenied("permission denied") if STEPS["joining or a barrier"](txn) else None


def _rejoined(entry: object) -> bool:
    return isinstance(entry, Applied) and locks(entry.txn)


def test_where_etcd_cannot_be_asked_any_more_it_says_unknown_and_leaves_the_proof_once_it_can(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        a.store.lose(Fault.ANSWER, when=locks)
        run = world.start(a, domain(1), disk("x"), answer=2.0)
        while not world.etcd.contents(KEYS.domains):
            await asyncio.sleep(0.0001)
        a.store.cut()
        with pytest.raises(OutcomeUnknown, match="cannot be asked"):
            await run.ended
        assert run.opened is None

    play(scenario)


@pytest.mark.parametrize("away", [1.0, 3.0, 8.0, 30.0])
def test_etcd_away_while_a_lock_is_taken_and_back_again_loses_nothing(play: Play, away: float) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        a.store.lose(Fault.LATE, when=locks, delay_seconds=1.5)
        run = world.start(a, domain(1), disk("x"), answer=60.0, life=5.0)
        await asyncio.sleep(0.01)
        a.store.cut()
        await asyncio.sleep(away)
        a.store.mend()
        assert (await run.ended).released
        await asyncio.sleep(30.0)
        assert left_behind(world) == []

    play(scenario)
