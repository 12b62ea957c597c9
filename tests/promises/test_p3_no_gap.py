"""During a migration the locks always have an owner, and nobody gets between source and destination."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from etcdlock.errors import EtcdlockError, HeldElsewhere, Superseded
from etcdlock.ports import Put, Txn
from etcdlock.testing import Fault
from tests.promises.conftest import Play
from tests.promises.hypervisor import ACQUIRE_SECONDS, Hypervisor, hypervisor
from tests.promises.judge import moments
from tests.promises.vm import Vm
from tests.promises.world import KEYS, World, disk, domain

VM, OTHER = domain(1), domain(2)
X, Y, Z = disk("x"), disk("y"), disk("z")
LOCKS = (KEYS.domain(VM.uuid), KEYS.resource(X, uuid=VM.uuid), KEYS.resource(Y, uuid=VM.uuid))


async def pair(world: World) -> tuple[Hypervisor, Hypervisor, Vm]:
    """Source and destination, and a guest on the source."""
    a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
    return a, b, await a.start(VM, X, Y)


def gaps(world: World, *, since: int) -> list[str]:
    """Moments at which a lock of the guest was nobody's."""
    return [
        f"revision {moment.revision}: no {key}"
        for moment in moments(world)
        if moment.revision >= since
        for key in LOCKS
        if key not in moment.values
    ]


def owners(world: World) -> list[str]:
    """The hosts that the domain's lock named, one after the other."""
    named = [moment.values[LOCKS[0]]["host"] for moment in moments(world) if LOCKS[0] in moment.values]
    return [host for host, before in zip(named, ["", *named], strict=False) if host != before]


async def contend(c: Hypervisor) -> None:
    """Try to get the domain or one of its disks, as fast as can be."""
    while True:
        for who, disks in ((VM, (X, Y)), (OTHER, (X,)), (OTHER, (Y,))):
            with suppress(EtcdlockError):
                await c.start(who, *disks)
        await asyncio.sleep(0.0001)


def test_in_twenty_migrations_there_and_back_a_third_host_that_never_stops_trying_gets_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        since = world.etcd.revision
        c = await hypervisor(world, "c")
        contending = asyncio.ensure_future(contend(c))
        for _ in range(10):
            vm = await a.migrate(vm, b)
            await asyncio.sleep(0.3)
            vm = await b.migrate(vm, a)
            await asyncio.sleep(0.3)
        contending.cancel()
        assert vm.runs
        assert not any(other.spans for other in c.vms)
        assert len(c.vms) > 100
        assert gaps(world, since=since) == []
        assert owners(world) == ["a", *["b", "a"] * 10]

    play(scenario)


@pytest.mark.parametrize("early", [0.0, 0.5, 5.0])
def test_a_destination_that_asks_before_the_source_has_parked_waits_for_it(play: Play, early: float) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        arriving = b.prepare(VM, X, Y, incoming=True)
        asking = asyncio.ensure_future(b.let_run_or_kill(arriving))
        await asyncio.sleep(early)
        a.pause(vm)
        stopped = asyncio.get_running_loop().time()
        await asking
        vm.guest.end()
        assert asyncio.get_running_loop().time() - stopped < 0.1
        assert arriving.runs

    play(scenario)


def test_a_destination_that_the_source_never_makes_room_for_is_refused_in_time(play: Play) -> None:
    async def scenario(world: World) -> None:
        _, b, vm = await pair(world)
        begun = asyncio.get_running_loop().time()
        with pytest.raises(HeldElsewhere, match="domain vm1 is held on host a"):
            await b.start(VM, X, Y, incoming=True)
        assert asyncio.get_running_loop().time() - begun <= ACQUIRE_SECONDS + 0.5
        assert vm.runs

    play(scenario)


def test_a_guest_that_comes_from_a_file_takes_what_nobody_holds(play: Play) -> None:
    async def scenario(world: World) -> None:
        b = await hypervisor(world, "b")
        vm = await b.start(VM, X, incoming=True)
        assert vm.runs

    play(scenario)


def test_a_disk_that_only_the_destination_has_is_added_to_what_it_claims(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        a.pause(vm)
        arriving = b.prepare(VM, Z, X, Y, incoming=True)
        await b.let_run_or_kill(arriving)
        vm.guest.end()
        found = b.record(VM)
        assert found is not None
        assert sorted(found.record.resources) == [X, Y, Z]

    play(scenario)


def test_a_migration_that_fails_before_the_claim_leaves_the_guest_to_its_source(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        arriving = b.prepare(VM, X, Y, incoming=True)
        a.pause(vm)
        arriving.guest.kill()
        await asyncio.sleep(0.1)
        await a.resume(vm)
        assert vm.runs

    play(scenario)


def test_a_destination_that_is_refused_another_disk_hands_everything_back_before_it_says_so(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        c = await hypervisor(world, "c")
        await c.start(OTHER, Z)
        since = world.etcd.revision
        token = vm.token
        a.pause(vm)
        with pytest.raises(HeldElsewhere, match="/san/z is held by domain vm2 on host c"):
            await b.start(VM, Z, X, Y, incoming=True)
        await a.resume(vm)
        assert (vm.runs, vm.token) == (True, token)
        assert owners(world)[:3] == ["a", "b", "a"]
        assert gaps(world, since=since) == []

    play(scenario)


@pytest.mark.parametrize("migrated_in", [False, True], ids=["started here", "migrated here"])
def test_once_the_destination_has_run_the_source_is_refused_for_ever_and_not_killed(
    play: Play, migrated_in: bool
) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        if migrated_in:
            vm = await b.migrate(await a.migrate(vm, b), a)
        a.pause(vm)
        arrived = await b.start(VM, X, Y, incoming=True)
        for _ in range(2):
            with pytest.raises(Superseded, match="has gone to host b"):
                await a.resume(vm)
        b.pause(arrived)
        await asyncio.sleep(0.1)
        with pytest.raises(Superseded):
            await a.resume(vm)
        await b.resume(arrived)
        arrived.guest.end()
        await asyncio.sleep(1.0)
        with pytest.raises(Superseded, match="not locked by this guest any more"):
            await a.resume(vm)
        assert vm.guest.gone_at is None
        vm.guest.end()
        await asyncio.sleep(0.1)
        await a.start(VM, X, Y)  # another process of the same domain is as good as any

    play(scenario)


@pytest.mark.parametrize("who", [VM, OTHER], ids=["the same domain", "another domain"])
def test_a_fresh_start_on_what_is_suspended_elsewhere_is_refused_and_told_so(play: Play, who: object) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        a.pause(vm)
        await asyncio.sleep(0.1)
        with pytest.raises(HeldElsewhere, match=r"on host a since .*suspended there"):
            await b.start(VM if who is VM else OTHER, X)
        await a.resume(vm)

    play(scenario)


def claims(txn: Txn) -> bool:
    """Picks what rewrites a domain's record and nothing else: on the destination, a claim or its undoing."""
    puts = [op.key for op in txn.success if isinstance(op, Put)]
    return puts == [LOCKS[0]]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("fault", "delay"), [(Fault.REQUEST, 0.0), (Fault.ANSWER, 0.0), (Fault.LATE, 0.01), (Fault.LATE, 5.0)]
)
def test_a_claim_whose_answer_is_lost_is_settled_and_the_guest_goes_on_at_its_destination(
    play: Play, fault: Fault, delay: float, count: int
) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        since = world.etcd.revision
        b.host.store.lose(fault, count=count, when=claims, delay_seconds=delay)
        arrived = await a.migrate(vm, b)
        await asyncio.sleep(10.0)
        assert arrived.runs
        assert gaps(world, since=since) == []

    play(scenario)


async def claim_unheard(a: Hypervisor, b: Hypervisor, vm: Vm) -> None:
    """A claim that nobody hears of, from a host that etcd does not answer after that; the guest there is killed."""
    a.pause(vm)
    asking = asyncio.ensure_future(b.start(VM, X, Y, incoming=True))
    while not b.is_in_doubt():
        await asyncio.sleep(0.0001)
    b.host.store.cut()
    with pytest.raises(EtcdlockError):
        await asking


@pytest.mark.parametrize(("fault", "delay"), [(Fault.REQUEST, 0.0), (Fault.ANSWER, 0.0), (Fault.LATE, 3.0)])
@pytest.mark.parametrize("impatient", [False, True], ids=["asks once it is back", "asks all the time"])
@pytest.mark.parametrize("rejoins", [False, True], ids=["same session", "another session"])
def test_a_claim_that_nobody_was_told_of_goes_back_to_its_source_which_runs_on(
    play: Play, fault: Fault, delay: float, impatient: bool, rejoins: bool
) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        since, token = world.etcd.revision, vm.token
        b.host.store.lose(fault, when=claims, delay_seconds=delay)
        await claim_unheard(a, b, vm)
        if impatient:
            for _ in range(3):
                with suppress(Superseded):
                    await a.resume(vm)
                    break
        if rejoins:
            world.etcd.revoke_wrongly(world.leases(a.host)[0])
            await asyncio.sleep(3.0)
        b.host.store.mend()
        await asyncio.sleep(10.0)  # before the deadline of the session that is lost
        if not vm.runs:
            await a.resume(vm)
        assert vm.runs
        assert vm.token == token
        assert gaps(world, since=since) == []

    play(scenario)


@pytest.mark.parametrize("outage", ["its session is lost", "etcd is away for it"])
def test_what_has_been_claimed_from_is_left_alone_while_its_session_is_proven_and_stopped_when_it_is_not(
    play: Play, outage: str
) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        a.pause(vm)
        arrived = await b.start(VM, X, Y, incoming=True)
        with pytest.raises(Superseded):
            await a.resume(vm)
        await asyncio.sleep(60.0)
        assert vm.guest.killed_at is None
        if outage == "its session is lost":
            world.etcd.revoke_wrongly(world.leases(a.host)[0])
        else:
            a.host.store.cut()
        await asyncio.sleep(world.timing.stop_after_seconds + 0.1)
        assert arrived.runs
        assert vm.guest.killed_at is not None

    play(scenario)


@pytest.mark.parametrize("asks", [False, True], ids=["never told", "told that it has gone"])
def test_what_goes_back_to_a_guest_that_has_ended_meanwhile_is_given_back(play: Play, asks: bool) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        b.host.store.lose(Fault.ANSWER, when=claims)
        await claim_unheard(a, b, vm)
        if asks:
            with pytest.raises(Superseded):
                await a.resume(vm)
        vm.guest.end()
        await asyncio.sleep(3.0)
        b.host.store.mend()
        await asyncio.sleep(100.0)
        assert not world.etcd.contents(KEYS.domains)
        await b.start(VM, X)

    play(scenario)

def test_an_etcd_that_answers_slower_than_it_is_asked_what_came_back_costs_the_source_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        await a.migrate(vm, b)
        await asyncio.sleep(10.0)
        assert a.agent is not None
        a.host.store.slow_down(lambda: 0.7)
        b.vms[-1].guest.end()
        for _ in range(70):
            await asyncio.sleep(1.0)
            await asyncio.gather(a.agent.ledger.proven(), a.agent.ledger.proven())  # as after two heartbeats
        await a.start(OTHER, Y)

    play(scenario)



@pytest.mark.parametrize("half_millisecond", range(40))
def test_a_destination_that_dies_at_any_instant_leaves_the_guest_to_its_source_unless_it_might_have_run(
    play: Play, half_millisecond: int
) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        since = world.etcd.revision
        a.pause(vm)
        arriving = b.prepare(VM, X, Y, incoming=True)
        asking = asyncio.ensure_future(b.let_run_or_kill(arriving))
        await asyncio.sleep(half_millisecond / 2000)
        arriving.guest.kill()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(0.5)
        if arriving.granted:
            with pytest.raises(Superseded):
                await a.resume(vm)
            assert not world.etcd.contents(KEYS.domains)
            return
        await a.resume(vm)
        assert vm.runs
        assert gaps(world, since=since) == []

    play(scenario)


@pytest.mark.parametrize("side", ["source", "destination", "both"])
@pytest.mark.parametrize("after", [0.0, 0.0004, 0.0008, 0.0012, 0.002, 0.003, 0.005, 0.008])
@pytest.mark.parametrize("away", [2.0, 9.0, 14.0])
def test_etcd_away_at_the_switch_over_leaves_one_guest_that_runs_or_can_run(
    play: Play, side: str, after: float, away: float
) -> None:
    async def scenario(world: World) -> None:
        a, b, vm = await pair(world)
        since = world.etcd.revision
        await asyncio.sleep(1.0)
        migrating = asyncio.ensure_future(a.migrate(vm, b))
        await asyncio.sleep(after)
        cut = {"source": [a], "destination": [b], "both": [a, b]}[side]
        for host in cut:
            host.host.store.cut()
        await asyncio.sleep(away)
        for host in cut:
            host.host.store.mend()
        await asyncio.gather(migrating, return_exceptions=True)
        await asyncio.sleep(15.0)
        if not any(guest.runs for guest in (*a.vms, *b.vms)):
            await a.resume(vm)
        assert sum(guest.runs for guest in (*a.vms, *b.vms)) == 1
        assert gaps(world, since=since) == []

    play(scenario)
