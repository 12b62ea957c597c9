"""A lock of a silent host is given away only with a proof of its end that is itself a record in etcd."""

from __future__ import annotations

import asyncio

import pytest

from etcdlock.errors import ContractMismatch, DuplicateHost, HeldElsewhere
from etcdlock.model import Proof
from etcdlock.testing import Link
from etcdlock.timing import Timing
from etcdlock.transitions import park
from tests.promises.conftest import Play
from tests.promises.judge import moments
from tests.promises.world import KEYS, RHO, Host, Run, World, disk, domain


async def dead_host(world: World) -> tuple[Host, Run]:
    host = world.host("a")
    run = world.start(host, domain(1), disk("x"))
    await world.until_runs(run)
    await world.power_off(run)
    return host, run


def now() -> float:
    return asyncio.get_running_loop().time()


def test_without_a_proof_a_dead_host_keeps_its_locks_and_the_refusal_says_how_long(play: Play) -> None:
    async def scenario(world: World) -> None:
        await dead_host(world)
        await asyncio.sleep(500.0)
        with pytest.raises(HeldElsewhere, match=r"host a is silent: it can be taken over 25 s after"):
            await world.start(world.host("b"), domain(2), disk("x")).ended

    play(scenario)


def test_silence_is_proof_only_after_the_whole_hold_off_on_the_clock_of_who_saw_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        await dead_host(world)
        await asyncio.sleep(500.0)
        begun = now()
        guest = await world.until_runs(world.start(world.host("b"), domain(2), disk("x"), wait=100.0))
        assert guest.opened_at is not None
        hold_off = world.timing.hold_off_seconds
        assert begun + hold_off <= guest.opened_at < begun + hold_off + 3.0
        assert len(world.obituaries()) == 1

    play(scenario)


def test_a_crash_is_over_for_a_waiting_host_within_the_worst_takeover_time(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        first = world.start(a, domain(1), disk("x"))
        await world.until_runs(first)
        second = world.start(world.host("b"), domain(1), disk("x"), wait=100.0)
        await asyncio.sleep(30.0)
        await world.power_off(first)
        crashed = now()
        guest = await world.until_runs(second)
        assert guest.opened_at is not None
        assert guest.opened_at < crashed + world.timing.takeover_seconds + 0.5

    play(scenario)


@pytest.mark.parametrize("trouble", ["stale reads", "lost events", "cancelled watch", "compaction"])
def test_a_takeover_is_late_but_comes_though_watches_and_reads_fail(play: Play, trouble: str) -> None:
    async def scenario(world: World) -> None:
        a, b = world.host("a"), world.host("b")
        first = world.start(a, domain(1), disk("x"))
        await world.until_runs(first)
        second = world.start(b, domain(1), disk("x"), wait=200.0)
        await asyncio.sleep(5.0)
        match trouble:
            case "stale reads":
                world.etcd.stale_reads(8, revisions=3)
            case "lost events":
                world.etcd.lose_events(1000)
            case "cancelled watch":
                b.store.cancel_watches()
            case _:
                world.etcd.compact(world.etcd.revision)
        await world.power_off(first)
        await world.until_runs(second, within=world.timing.takeover_seconds + 40.0)

    play(scenario)


def test_a_read_from_the_past_does_not_begin_the_hold_off(play: Play) -> None:
    """The host that waits is answered from before the other had joined; later that one falls silent."""

    async def scenario(world: World) -> None:
        a, b = world.host("a", rate=1.0 - RHO), world.host("b", rate=1.0 + RHO)
        first = world.start(a, domain(1), disk("x"), death=world.timing.kill_seconds, guarded=True)
        await world.until_runs(first)
        second = world.start(b, domain(2), disk("x"), wait=200.0)
        world.etcd.stale_reads(1000, revisions=1000)
        await asyncio.sleep(40.0)
        world.etcd.stale_reads(0)
        a.store.cut()
        world.etcd.revoke_wrongly(world.leases(a)[0])
        await world.until_runs(second)

    play(scenario)


def test_an_etcd_that_refuses_connections_when_the_hold_off_is_over_is_not_asked_all_the_time(play: Play) -> None:
    async def scenario(world: World) -> None:
        await dead_host(world)
        b = world.host("b")
        second = world.start(b, domain(2), disk("x"), wait=300.0)
        await asyncio.sleep(world.timing.takeover_seconds - 1.5)
        b.store.cut(Link.REFUSED)
        before = len(world.etcd.history)
        await asyncio.sleep(15.0)
        assert second.opened is None
        assert len(world.etcd.history) - before < 150
        b.store.mend()
        await world.until_runs(second, within=60.0)

    play(scenario)


def test_a_living_session_cannot_be_declared_dead(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = world.host("a"), world.host("b")
        guest = await world.until_runs(world.start(a, domain(1), disk("x")))
        assert not await world.declare(b, world.sessions(a)[0])
        a.store.cut()
        assert not await world.declare(b, world.sessions(a)[0])
        assert guest.runs

    play(scenario)


@pytest.mark.parametrize("proof", [Proof.OPERATOR, Proof.FENCE_AGENT])
def test_what_an_operator_or_a_fence_agent_confirms_frees_the_locks_at_once(play: Play, proof: Proof) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        first = world.start(a, domain(1), disk("x"))
        await world.until_runs(first)
        session = world.sessions(a)[0]
        second = world.start(world.host("b"), domain(2), disk("x"), wait=100.0)
        await world.power_off(first)
        await asyncio.sleep(15.0)
        assert second.guest is None
        assert await world.declare(world.host("operator"), session, proof=proof)
        await world.until_runs(second, within=1.0)

    play(scenario)


def test_where_the_cluster_wants_a_fence_agent_silence_is_never_enough(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        first = world.start(a, domain(1), disk("x"))
        await world.until_runs(first)
        session = world.sessions(a)[0]
        await world.power_off(first)
        second = world.start(world.host("b"), domain(2), disk("x"), wait=900.0)
        await asyncio.sleep(600.0)
        assert second.guest is None
        assert world.obituaries() == []
        calls = len(world.etcd.history)
        await asyncio.sleep(10.0)
        assert len(world.etcd.history) - calls < 100  # and nobody wears etcd out meanwhile
        assert await world.declare(world.host("fence"), session, proof=Proof.FENCE_AGENT)
        await world.until_runs(second, within=1.0)

    play(scenario, takeover_needs="fence")


def test_a_machine_that_was_reset_takes_back_its_own_as_soon_as_its_old_session_is_gone(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, first = await dead_host(world)
        again = world.boot_again(a, boot="second boot")
        run = world.start(again, domain(1), disk("x"), answer=40.0)
        crashed = now()
        guest = await world.until_runs(run)
        assert guest.opened_at is not None
        assert guest.opened_at < crashed + world.timing.ttl_seconds + 2.0
        assert first.guest is None
        proofs = {value["proof"] for value in moments(world)[-1].under(KEYS.obituaries.key).values()}
        assert proofs == {Proof.REBOOT}

    play(scenario)


@pytest.mark.parametrize("granted", [10, 15, 45])
def test_a_machine_that_was_reset_waits_for_its_old_session_as_long_as_etcd_keeps_that(
    play: Play, granted: int
) -> None:
    async def scenario(world: World) -> None:
        world.etcd.grant_at_least(granted)
        a, _ = await dead_host(world)
        crashed = now()
        guest = await world.until_runs(world.start(world.boot_again(a, boot="second boot"), domain(1), disk("x")))
        assert guest.opened_at is not None
        assert guest.opened_at < crashed + granted + 2.0

    play(scenario)


def test_another_machine_under_the_same_host_id_proves_nothing_by_its_boot(play: Play) -> None:
    async def scenario(world: World) -> None:
        await dead_host(world)
        await asyncio.sleep(30.0)
        twin = world.host("a")
        twin.boot, twin.machine = "its own", "another machine"
        with pytest.raises(HeldElsewhere, match="host a is silent"):
            await world.start(twin, domain(1), disk("x")).ended
        assert world.obituaries() == []

    play(scenario)


def test_a_second_machine_with_a_living_host_id_is_refused_and_the_first_runs_on(play: Play) -> None:
    async def scenario(world: World) -> None:
        guest = await world.until_runs(world.start(world.host("a"), domain(1), disk("x")))
        twin = world.host("a")
        twin.boot, twin.machine = "its own", "another machine"
        with pytest.raises(DuplicateHost, match="host id 'a' is in use"):
            await world.start(twin, domain(2), disk("y"), answer=60.0).ended
        assert guest.runs

    play(scenario)


def test_programs_of_one_boot_live_side_by_side_under_one_host_id(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        runs = [world.start(a, domain(n), disk(f"d{n}"), answer=30.0) for n in range(1, 8)]
        for run in runs:
            await world.until_runs(run)
        assert len(world.sessions(a)) == 7

    play(scenario)


def test_a_host_with_another_timing_is_refused_with_both_values(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.until_runs(world.start(world.host("a"), domain(1), disk("x")))
        world.contract = type(world.contract)(Timing(hold_off_seconds=30.0))
        with pytest.raises(ContractMismatch, match=r"hold_off_seconds: here 30\.0, cluster 25\.0"):
            await world.start(world.host("b"), domain(2), disk("y")).ended

    play(scenario)


async def parked_on(world: World, host: Host) -> None:
    """A domain whose guest stands still, under a session that nobody renews any more."""
    agent = await world.agent(host)
    stored, _ = await agent.acquire(domain(1), disk("x"))
    change = park(KEYS, agent.member.session, stored, request="parks")
    assert (await host.store.txn(change.txn)).succeeded
    agent.keeping.cancel()


def test_a_parked_domain_is_refused_while_its_session_lives(play: Play) -> None:
    async def scenario(world: World) -> None:
        await parked_on(world, world.host("a"))
        with pytest.raises(HeldElsewhere, match="suspended there"):
            await world.start(world.host("b"), domain(2), disk("x")).ended

    play(scenario)


def test_a_parked_domain_is_taken_like_any_other_only_with_the_proof_of_its_sessions_end(play: Play) -> None:
    async def scenario(world: World) -> None:
        await parked_on(world, world.host("a"))
        run = world.start(world.host("b"), domain(2), disk("x"), wait=60.0)
        await asyncio.sleep(world.timing.hold_off_seconds)
        assert run.guest is None
        await world.until_runs(run, within=world.timing.ttl_seconds + 2.0)
        assert len(world.obituaries()) == 1

    play(scenario)


def test_of_two_hosts_that_wait_for_a_dead_one_exactly_one_takes_over(play: Play) -> None:
    async def scenario(world: World) -> None:
        await dead_host(world)
        rivals = [world.start(world.host(name), domain(1), disk("x"), wait=60.0) for name in "bc"]
        await asyncio.sleep(55.0)
        assert sum(rival.guest is not None for rival in rivals) == 1

    play(scenario)


def test_a_host_that_waits_with_its_own_etcd_refusing_it_does_not_count_that_as_silence(play: Play) -> None:
    async def scenario(world: World) -> None:
        guest = await world.until_runs(world.start(world.host("a"), domain(1), disk("x")))
        b = world.host("b")
        waiting = world.start(b, domain(2), disk("x"), wait=300.0)
        await asyncio.sleep(5.0)
        for link in (Link.REFUSED, Link.HUNG, Link.CUT):
            b.store.cut(link)
            await asyncio.sleep(40.0)
            b.store.mend()
            await asyncio.sleep(5.0)
        assert guest.runs
        assert waiting.guest is None
        assert world.obituaries() == []

    play(scenario)
