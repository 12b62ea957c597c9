"""The stage is what it says: guards go on alone, watchdogs reset, dead programs do nothing, kinds are told apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from etcdlock.escalation import Action
from etcdlock.testing import FakeClock, FakeGuest, FakeWatchdog, run_virtual
from tests.promises.world import RHO, TIMING, disk, domain
from tests.simulation.cluster import Cluster
from tests.simulation.drama import Drama
from tests.simulation.moments import kind_of
from tests.simulation.stage import X, Y


def drama_of(seed: int = 0) -> Drama:
    return Drama(seed)


def test_every_kind_of_transaction_is_told_apart_in_a_migration_and_a_takeover() -> None:
    async def program() -> set[str]:
        d = drama_of()
        a, b = await d.machine("a", death=0.0), await d.machine("b")
        vm = await a.start(domain(1), X)
        await a.plug(vm, Y)
        a.unplug(vm, Y)
        await asyncio.sleep(1.0)
        arrived = await a.migrate(vm, b)
        await asyncio.sleep(1.0)
        b.pause(arrived)
        await asyncio.sleep(1.0)
        await b.resume(arrived)
        d.revoke_agent(b)
        await asyncio.sleep(5.0)
        party = d.solo(a, 2, X, wait=100.0)
        b.reset()
        await d.cluster.until_runs(party)
        party.guests.started[-1].end()
        await asyncio.sleep(1.0)
        await d.cluster.end()
        return {kind_of(entry.txn) for entry in d.etcd.history if hasattr(entry, "txn")}

    seen = run_virtual(program)
    assert seen >= {
        "join", "heartbeat", "acquire", "add", "change", "park", "claim", "unpark", "rejoin", "confirm", "obituary",
        "takeover", "release", "look", "leave",
    }  # fmt: skip


def test_a_guard_whose_program_is_dead_stops_the_guest_at_its_deadline_and_not_much_later() -> None:
    async def program() -> tuple[float, float]:
        d = drama_of()
        a = await d.machine("a", rate=1.0, death=0.0)
        vm = await a.start(domain(1), X)
        d.cut(a)
        began = asyncio.get_running_loop().time()
        a.kill_program()
        await asyncio.sleep(60.0)
        await d.cluster.end()
        assert vm.guest.killed_at is not None or vm.guest.stood
        return began, vm.guest.killed_at or vm.guest.stood[0][0]

    began, stopped = run_virtual(program)
    assert TIMING.stop_after_seconds - 3.0 < stopped - began < TIMING.stop_after_seconds + TIMING.guard_lag_seconds


def test_a_host_is_reset_in_time_when_program_and_guard_are_both_dead() -> None:
    async def program() -> float:
        d = drama_of()
        a = await d.machine("a", rate=1.0, watchdog_seconds=5.0)
        vm = await a.start(domain(1), X)
        began = asyncio.get_running_loop().time()
        a.kill_program()
        a.kill_guard()
        await asyncio.sleep(60.0)
        assert a.is_off
        assert vm.guest.gone_at is not None
        await d.cluster.end()
        return vm.guest.gone_at - began

    assert run_virtual(program) < 6.0


@pytest.mark.parametrize("agents", [1, 8])
def test_a_host_is_reset_in_time_though_agents_are_started_that_cannot_learn_of_the_guest_that_is_left(
    agents: int,
) -> None:
    async def program() -> float:
        d = drama_of()
        a = await d.machine("a", rate=1.0, watchdog_seconds=5.0, action=Action.KILL)
        vm = await a.start(domain(1), X)
        a.host.store.cut()
        began = asyncio.get_running_loop().time()
        a.kill_program()
        a.kill_guard()
        for _ in range(agents):
            await asyncio.sleep(2.0)
            d.bring_up(a)
        await asyncio.sleep(60.0)
        await d.cluster.end()
        assert a.is_off
        assert vm.guest.gone_at is not None
        return vm.guest.gone_at - began

    assert run_virtual(program) < 6.0


def test_an_agent_that_finds_all_guests_has_the_watchdog_that_was_left_before_it_bites() -> None:
    async def program() -> tuple[bool, bool, bool]:
        d = drama_of()
        a = await d.machine("a", rate=1.0, watchdog_seconds=5.0)
        vm = await a.start(domain(1), X)
        a.kill_program()
        a.kill_guard()
        await asyncio.sleep(2.0)
        d.bring_up(a)
        await asyncio.sleep(60.0)
        was_off, lived = a.is_off, vm.guest.gone_at is None
        a.kill_program()  # fed by the one that has it now, for as long as the guest's session may count
        a.kill_guard()
        await asyncio.sleep(60.0)
        await d.cluster.end()
        return was_off, lived, a.is_off

    assert run_virtual(program) == (False, True, True)


@pytest.mark.parametrize("deaths", [1, 6])
def test_a_host_whose_guest_does_not_die_is_reset_though_guards_die_as_well_one_after_the_other(deaths: int) -> None:
    async def program() -> float:
        d = drama_of()
        a = await d.machine("a", rate=1.0, watchdog_seconds=5.0, action=Action.KILL)
        vm = await a.start(domain(1), X)
        vm.guest.stuck = True
        a.host.store.cut()
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(a.timing.stop_after_seconds + 2.0)
        for _ in range(deaths):
            a.kill_guard()
            await asyncio.sleep(3.0)
        await asyncio.sleep(60.0)
        await d.cluster.end()
        assert a.is_off
        assert vm.guest.gone_at is not None
        return vm.guest.gone_at - began

    assert run_virtual(program) < TIMING.budget_seconds


def test_a_host_whose_guard_dies_while_a_guest_does_is_not_reset_where_the_guest_is_dead_in_time() -> None:
    """Its successor has the watchdog as soon as that may be fed."""

    async def program() -> None:
        d = drama_of()
        a = await d.machine("a", rate=1.0, watchdog_seconds=5.0, action=Action.KILL)
        vm = await a.start(domain(1), X)
        vm.guest.stuck = True
        a.host.store.cut()
        await asyncio.sleep(a.timing.feed_until_seconds + 0.5)
        a.kill_guard()
        await asyncio.sleep(2.0)
        vm.guest.thaw()
        await asyncio.sleep(60.0)
        assert not a.is_off
        await d.cluster.end()

    run_virtual(program)


def test_without_a_watchdog_a_guard_is_not_hurt_while_its_program_is_and_the_other_way_round() -> None:
    async def program() -> list[tuple[bool, bool]]:
        d = drama_of()
        a = await d.machine("a")
        await asyncio.sleep(5.0)
        seen = []
        for happens in (a.stop_program, a.go_on, None, a.kill_guard, None):
            if happens is None:
                await asyncio.sleep(5.0)
            else:
                happens()
            seen.append((a.may_hurt_program, a.may_hurt_guard))
        await d.cluster.end()
        return seen

    assert run_virtual(program) == [(False, False), (True, False), (True, True), (False, True), (True, True)]


def test_a_program_that_is_killed_kills_nobody_and_its_guest_is_left_to_the_guard() -> None:
    async def program() -> None:
        cluster = Cluster(seed=1)
        party = cluster.solo(cluster.host("a"), domain(1), disk("x"))
        guest = await cluster.until_runs(party)
        party.kill()
        await asyncio.sleep(10.0)
        assert guest.runs
        await asyncio.sleep(20.0)
        assert guest.gone_at is not None
        await cluster.end()

    run_virtual(program)


def test_a_watchdog_bites_unless_it_is_fed_and_a_held_feeding_counts_when_it_is_done() -> None:
    async def program() -> list[float]:
        bites: list[float] = []
        loop, owner = asyncio.get_running_loop(), object()
        dog = FakeWatchdog(5.0, reset=lambda: bites.append(loop.time()), late_seconds=0.2)
        assert dog.open(owner)
        assert not dog.open(object()), "it is busy"
        await asyncio.sleep(3.0)
        dog.feed(owner)

        def held(feed: Callable[[], None]) -> None:
            loop.call_later(2.0, feed)

        dog.hold_next_feed(held)
        await asyncio.sleep(1.0)
        dog.feed(owner)
        await asyncio.sleep(20.0)
        return bites

    assert run_virtual(program) == [3.0 + 1.0 + 2.0 + 5.2]


def test_clocks_are_as_wrong_as_the_contract_allows_and_no_more() -> None:
    async def program() -> set[float]:
        rates = set()
        for seed in range(12):
            d = drama_of(seed)
            rates.add((await d.machine("a")).host.rate)
            await d.cluster.end()
        return rates

    assert run_virtual(program) == {1 - RHO, 1.0, 1 + RHO}


def test_a_frozen_guest_is_told_by_when_it_stood() -> None:
    async def program() -> list[tuple[float, float | None]]:
        clock = FakeClock()
        guest = FakeGuest(["x"], environment={}, pid=1, life_seconds=None, death_seconds=0.0)
        await clock.sleep(1.0)
        guest.freeze()
        await clock.sleep(1.0)
        guest.go_on()
        await clock.sleep(1.0)
        guest.freeze()
        return guest.stood

    assert run_virtual(program) == [(1.0, 2.0), (3.0, None)]
