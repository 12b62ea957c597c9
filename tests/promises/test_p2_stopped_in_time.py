"""Guests are stopped before anybody can be granted their locks, and not before they must be."""

from __future__ import annotations

import asyncio

import pytest

from etcdlock.errors import AccessDenied, EtcdlockError, UnsteadyClock
from etcdlock.ports import Delete, KeyRange, Put, Txn
from etcdlock.testing import Applied
from tests.promises.conftest import Play
from tests.promises.world import KEYS, RHO, TIMING, Host, Run, World, disk, domain, locks

SLOW, FAST = 1.0 - RHO, 1.0 + RHO


def now() -> float:
    return asyncio.get_running_loop().time()


async def two_hosts_with_the_worst_clocks(world: World, *, guarded: bool, death: float) -> tuple[Host, Run, Run]:
    """The holder's clock as slow as is allowed, that of the host that waits as fast; far apart besides."""
    a, b = world.host("a", rate=SLOW, offset=5e5), world.host("b", rate=FAST, offset=3.0)
    first = world.start(a, domain(1), disk("x"), guarded=guarded, death=death)
    await world.until_runs(first)
    return a, first, world.start(b, domain(2), disk("x"), wait=200.0)


@pytest.mark.parametrize("guarded", [True, False], ids=["with a guard", "by itself"])
def test_a_guest_cut_off_is_dead_before_its_disk_is_given_away_though_clocks_differ_and_the_kill_takes_long(
    play: Play, guarded: bool
) -> None:
    async def scenario(world: World) -> None:
        death = world.timing.kill_seconds
        a, first, second = await two_hosts_with_the_worst_clocks(world, guarded=guarded, death=death)
        await asyncio.sleep(world.timing.renew_every_seconds * 3)
        a.store.cut()
        world.etcd.revoke_wrongly(world.leases(a)[0])  # nobody could see it missing earlier than that
        guest, successor = first.opened, await world.until_runs(second)
        assert guest is not None
        assert guest.gone_at is not None
        assert successor.opened_at is not None
        assert guest.gone_at < successor.opened_at

    play(scenario)


def test_a_program_that_hangs_does_not_keep_its_guest_alive(play: Play) -> None:
    async def scenario(world: World) -> None:
        death = world.timing.kill_seconds
        a, first, second = await two_hosts_with_the_worst_clocks(world, guarded=True, death=death)
        a.stall.begin()
        world.etcd.revoke_wrongly(world.leases(a)[0])
        await world.until_runs(second)
        assert first.guest is None

    play(scenario)


def test_a_heartbeat_whose_answer_comes_late_proves_nothing_later_than_its_sending(play: Play) -> None:
    async def scenario(world: World) -> None:
        death = world.timing.kill_seconds
        a, first, second = await two_hosts_with_the_worst_clocks(world, guarded=True, death=death)
        await asyncio.sleep(5.0)
        before = len(world.etcd.history)
        while not any(is_heartbeat(entry, a) for entry in world.etcd.history[before:]):
            await asyncio.sleep(0.0001)
        a.stall.begin()
        world.etcd.revoke_wrongly(world.leases(a)[0])
        await asyncio.sleep(0.5)
        a.store.cut()
        await asyncio.sleep(10.0)
        a.stall.end()
        await world.until_runs(second)
        assert first.guest is None

    play(scenario)


def is_heartbeat(entry: object, host: Host) -> bool:
    deletes_nothing = Delete(KeyRange(KEYS.never))
    return isinstance(entry, Applied) and entry.client == host.name and entry.txn.success == (deletes_nothing,)


async def locked(world: World, host: Host, number: int) -> None:
    """Wait until a domain's lock of this host is in etcd, before the host can have heard of it."""
    while not any(host.name.encode() in stored.value for stored in world.etcd.contents(KEYS.domains)):
        await asyncio.sleep(0.00005)
    assert world.etcd.contents(KeyRange(KEYS.domain(domain(number).uuid)))


@pytest.mark.parametrize("late", [1.0, 17.0, 19.0, 40.0, 200.0])
def test_a_yes_that_comes_too_late_starts_no_guest(play: Play, late: float) -> None:
    async def scenario(world: World) -> None:
        a, b = world.host("a"), world.host("b")
        first = world.start(a, domain(1), disk("x"))
        await locked(world, a, 1)
        a.stall.begin()
        second = world.start(b, domain(2), disk("x"), wait=150.0)
        await asyncio.sleep(late)
        a.stall.end()
        await asyncio.sleep(5.0)
        assert (first.opened is not None) == (late < world.timing.stop_after_seconds)
        if late > world.timing.takeover_seconds + 2.0:
            assert second.guest is not None

    play(scenario)


def test_the_guest_is_killed_exactly_at_its_deadline_and_not_for_a_short_absence_of_etcd(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        run = world.start(a, domain(1), disk("x"))
        guest = await world.until_runs(run)
        await asyncio.sleep(20.0)
        a.store.cut()
        await asyncio.sleep(world.timing.stop_after_seconds - world.timing.second_try_seconds)
        a.store.mend()
        await asyncio.sleep(20.0)
        assert guest.runs
        a.store.cut()
        cut_at = now()
        await run.ended
        assert guest.killed_at is not None
        stop_after = world.timing.stop_after_seconds
        assert cut_at + stop_after - world.timing.renew_every_seconds - 0.1 < guest.killed_at < cut_at + stop_after

    play(scenario)


@pytest.mark.parametrize("guarded", [True, False])
def test_a_session_revoked_by_mistake_is_joined_anew_and_the_guest_never_notices(play: Play, guarded: bool) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        guest = await world.until_runs(world.start(a, domain(1), disk("x"), disk("y"), guarded=guarded))
        for _ in range(3):
            before = world.sessions(a)
            world.etcd.revoke_wrongly(world.leases(a)[0])
            await asyncio.sleep(3 * world.timing.stop_after_seconds)
            assert world.sessions(a) != before
            assert guest.runs
        refused = world.start(world.host("b"), domain(2), disk("x"))
        with pytest.raises(EtcdlockError, match="is alive"):
            await refused.ended

    play(scenario)


def test_keepalives_that_lie_do_not_keep_a_guest_alive_nor_kill_one_that_can_be_joined_anew(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.etcd.keep_alives_lie = True
        guest = await world.until_runs(world.start(world.host("a"), domain(1), disk("x")))
        await asyncio.sleep(100.0)
        assert guest.runs

    play(scenario)


def denied(txn: Txn) -> EtcdlockError | None:
    return AccessDenied("permission denied") if locks(txn) else None


def all_denied(_txn: Txn) -> EtcdlockError | None:
    return AccessDenied("revoked user")


def test_a_host_that_etcd_denies_everything_keeps_its_guest_until_the_deadline_and_no_longer(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        run = world.start(a, domain(1), disk("x"))
        guest = await world.until_runs(run)
        denied_at = now()
        a.stall.refuse = all_denied
        assert (await run.ended).stopped
        assert guest.killed_at is not None
        assert denied_at + TIMING.stop_after_seconds - TIMING.renew_every_seconds - 0.1 < guest.killed_at

    play(scenario)


def test_a_rejoin_that_is_denied_is_tried_again_and_costs_the_guest_nothing_while_there_is_time(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        guest = await world.until_runs(world.start(a, domain(1), disk("x")))
        a.stall.refuse = denied
        world.etcd.revoke_wrongly(world.leases(a)[0])
        await asyncio.sleep(8.0)
        assert guest.runs
        a.stall.refuse = lambda _txn: None
        await asyncio.sleep(60.0)
        assert guest.runs

    play(scenario)


def test_a_rejoin_that_is_denied_for_too_long_does_not_save_the_guest(play: Play) -> None:
    """Its new session is proven all the time: that does not count before its locks have been carried over."""

    async def scenario(world: World) -> None:
        a = world.host("a")
        run = world.start(a, domain(1), disk("x"), guarded=True)
        guest = await world.until_runs(run)
        a.stall.refuse = denied
        world.etcd.revoke_wrongly(world.leases(a)[0])
        revoked_at = now()
        await run.ended
        assert guest.killed_at is not None
        assert guest.killed_at <= revoked_at + TIMING.stop_after_seconds

    play(scenario)


def test_a_record_that_somebody_made_unreadable_ends_the_guest_at_its_deadline_and_not_before(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        run = world.start(a, domain(1), disk("x"))
        guest = await world.until_runs(run)
        await asyncio.sleep(10.0)
        await world.host("vandal").store.txn(Txn((), (Put(KEYS.domain(domain(1).uuid), b"not json"),)))
        world.etcd.revoke_wrongly(world.leases(a)[0])
        revoked_at = now()
        ending = await run.ended
        assert guest.killed_at is not None
        assert guest.killed_at > revoked_at + TIMING.stop_after_seconds - TIMING.renew_every_seconds - 0.1
        assert ending.stopped

    play(scenario, judged=False)  # the judge cannot read that record either


def test_a_guard_that_dies_is_replaced_and_its_successor_stops_the_guest_in_time(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, first, second = await two_hosts_with_the_worst_clocks(world, guarded=True, death=0.0)
        world.etcd.revoke_wrongly(world.leases(a)[0])
        first.guards[0].kill()
        await asyncio.sleep(30.0)
        assert len(first.guards) == 2
        assert first.guest is not None
        a.stall.begin()
        await world.until_runs(second, within=150.0)
        assert first.guest is None

    play(scenario)


@pytest.mark.parametrize("steered", [2 * RHO, -2 * RHO])
def test_a_host_whose_clocks_differ_in_rate_acquires_nothing_and_keeps_what_it_has(play: Play, steered: float) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        first = world.start(a, domain(1), disk("x"))
        await world.until_runs(first)
        a.clock.steer(steered)
        second = world.start(a, domain(2), disk("y"))
        with pytest.raises(UnsteadyClock):
            await second.ended
        await asyncio.sleep(world.timing.takeover_seconds)
        assert first.guest is not None
        first.guest.end()
        assert (await first.ended).released

    play(scenario)
