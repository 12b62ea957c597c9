"""However a run ends, etcd is left with nothing of it, or with the proof that lets others take it at once."""

from __future__ import annotations

import asyncio

import pytest

from etcdlock.errors import AccessDenied, EtcdlockError, GuestNotStarted, Unreachable
from etcdlock.ports import Txn
from etcdlock.testing import Fault, Link
from tests.promises.conftest import Play
from tests.promises.judge import left_behind
from tests.promises.world import Run, World, disk, domain, locks

MILLISECONDS = range(0, 60, 1)


def starts(world: World) -> Run:
    return world.start(world.host("a"), domain(1), disk("x"), disk("y"), life=0.02)


async def cancelled(run: Run, *, times: int = 1, apart: float = 0.0) -> None:
    for _ in range(times):
        run.ended.cancel()
        await asyncio.sleep(apart)
    await asyncio.wait((run.ended,))


async def followed_at_once(world: World) -> None:
    """Nothing stands in the way of who comes next."""
    assert left_behind(world) == []
    heir = world.start(world.host("heir"), domain(1), disk("x"), life=1.0)
    assert (await heir.ended).released


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("after", MILLISECONDS)
def test_a_run_that_is_cancelled_at_any_moment_leaves_nothing(play: Play, after: int, times: int) -> None:
    async def scenario(world: World) -> None:
        run = starts(world)
        await asyncio.sleep(after / 1000)
        await cancelled(run, times=times, apart=0.0007)
        assert all(guest.gone_at is not None for guest in run.guests.started)
        await followed_at_once(world)
        assert world.obituaries() == []

    play(scenario, seed=after)


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("after", range(4, 40, 2))
def test_a_run_that_is_cancelled_while_an_answer_is_lost_leaves_nothing_but_a_proof(
    play: Play, after: int, fault: Fault
) -> None:
    async def scenario(world: World) -> None:
        run = starts(world)
        run.host.store.lose(fault, count=2, when=locks, delay_seconds=0.5)
        await asyncio.sleep(after / 1000)
        await cancelled(run, times=2, apart=0.003)
        await asyncio.sleep(2.0)
        await followed_at_once(world)

    play(scenario, seed=after)


def test_a_guest_that_does_not_die_keeps_its_lock_however_often_the_run_is_cancelled(play: Play) -> None:
    async def scenario(world: World) -> None:
        run = world.start(world.host("a"), domain(1), disk("x"))
        guest = await world.until_runs(run)
        guest.stuck = True
        for _ in range(5):
            run.ended.cancel()
            await asyncio.sleep(30.0)
        assert world.obituaries() == []
        assert not run.ended.done()
        guest.thaw()
        await asyncio.wait((run.ended,))
        await followed_at_once(world)

    play(scenario)


def test_a_command_that_does_not_exist_leaves_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        run = starts(world)
        run.guests.refuse = True
        with pytest.raises(GuestNotStarted):
            await run.ended
        await followed_at_once(world)

    play(scenario)


def refuse_locks(txn: Txn) -> EtcdlockError | None:
    return AccessDenied("permission denied") if locks(txn) else None


def test_a_release_that_etcd_denies_leaves_the_proof_instead(play: Play) -> None:
    async def scenario(world: World) -> None:
        run = world.start(world.host("a"), domain(1), disk("x"), life=5.0)
        await world.until_runs(run)
        run.host.stall.refuse = refuse_locks
        assert (await run.ended).released, "the proof frees them"
        assert len(world.obituaries()) == 1
        await followed_at_once(world)

    play(scenario)


def test_a_guest_that_ends_before_its_new_session_has_its_locks_leaves_the_proof_of_the_old_one(play: Play) -> None:
    async def scenario(world: World) -> None:
        run = world.start(world.host("a"), domain(1), disk("x"))
        guest = await world.until_runs(run)
        run.host.stall.refuse = refuse_locks
        world.etcd.revoke_wrongly(world.leases(run.host)[0])
        await asyncio.sleep(6.0)
        guest.end()
        assert (await run.ended).released, "the proof frees them"
        await followed_at_once(world)

    play(scenario)


def test_where_etcd_cannot_be_told_the_end_is_not_called_a_release(play: Play) -> None:
    async def scenario(world: World) -> None:
        run = world.start(world.host("a"), domain(1), disk("x"), answer=3.0)
        guest = await world.until_runs(run)
        run.host.store.cut()
        guest.end()
        assert not (await run.ended).released

    play(scenario, judged=False)  # its locks stand until they are taken over


@pytest.mark.parametrize("away", [1.0, 3.0, 6.0])
def test_a_guest_that_ends_while_etcd_is_away_for_a_while_is_still_released(play: Play, away: float) -> None:
    async def scenario(world: World) -> None:
        run = world.start(world.host("a"), domain(1), disk("x"))
        guest = await world.until_runs(run)
        run.host.store.cut()
        guest.end()
        await asyncio.sleep(away)
        run.host.store.mend()
        assert (await run.ended).released
        await followed_at_once(world)

    play(scenario)


def test_who_leaves_does_not_join_anew(play: Play) -> None:
    """A heartbeat between leaving and the end would find the session missing."""

    async def scenario(world: World) -> None:
        for seed in range(20):
            run = world.start(world.host(f"h{seed}"), domain(seed), disk(f"d{seed}"), life=1.95 + seed / 200)
            await run.ended
        assert left_behind(world) == []

    play(scenario)


def test_a_signal_goes_to_the_guest_and_after_its_end_to_nobody(play: Play) -> None:
    async def scenario(world: World) -> None:
        run = world.start(world.host("a"), domain(1), disk("x"))
        assert not run.solo.signal(15)
        guest = await world.until_runs(run)
        assert run.solo.signal(10)
        assert run.solo.signal(15)
        assert guest.signals == [10, 15]
        ending = await run.ended
        assert run.solo.signal(15)
        assert (ending.status.signal, ending.stopped, ending.released) == (15, False, True)

    play(scenario)


def test_an_etcd_that_takes_no_locks_is_not_hammered_with_guests(play: Play) -> None:
    def unreachable(txn: Txn) -> EtcdlockError | None:
        return Unreachable("connection refused") if locks(txn) else None

    async def scenario(world: World) -> None:
        run = starts(world)
        run.host.stall.refuse = unreachable
        with pytest.raises(Unreachable):
            await run.ended
        assert 2 < len(run.guests.started) < 30

    play(scenario)


@pytest.mark.parametrize("link", [Link.CUT, Link.HUNG, Link.REFUSED])
def test_where_no_etcd_answers_from_the_start_it_says_unreachable_and_starts_nothing(play: Play, link: Link) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        a.store.cut(link)
        run = world.start(a, domain(1), disk("x"), answer=5.0)
        with pytest.raises(Unreachable):
            await run.ended
        assert run.guests.started == []

    play(scenario)


def test_one_domain_that_cannot_be_carried_over_costs_no_other_its_guest(play: Play) -> None:
    def first_denied(txn: Txn) -> EtcdlockError | None:
        touched = str(domain(1).uuid) in str(txn)
        return AccessDenied("permission denied") if locks(txn) and touched else None

    async def scenario(world: World) -> None:
        agent = await world.agent(world.host("a"))
        guests = [(await agent.acquire(domain(number), disk(f"d{number}")))[1] for number in (1, 2, 3)]
        world.hosts[0].stall.refuse = first_denied
        world.etcd.revoke_wrongly(world.leases(world.hosts[0])[0])
        await asyncio.sleep(60.0)
        assert [guest.killed_at is None for guest in guests] == [False, True, True]

    play(scenario)
