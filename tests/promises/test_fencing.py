"""A host is proven dead by a fence agent only if that says so, and a host that lives is not fenced by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from etcdlock.agent.fencer import MOST_ATTEMPTS, Fencer
from etcdlock.agent.fencing import TRIES, Order, fence
from etcdlock.errors import HeldElsewhere, InvalidInput, NotConfirmedOff, Refused, SessionAlive
from etcdlock.model import Fencing, FencingState, Obituary, Proof, SessionKind
from etcdlock.ports import KeyRange, Power
from etcdlock.records import decode_fencing, decode_obituary
from etcdlock.testing import FakePowerSwitch
from tests.promises.conftest import Play
from tests.promises.hypervisor import Hypervisor, hypervisor
from tests.promises.world import KEYS, Host, World, disk, domain

VM, OTHER = domain(1), domain(2)
X, Y = disk("x"), disk("y")
AFTER_SECONDS = 5.0


def power_cut(host: Hypervisor) -> None:
    """Everything of the host is dead at once."""
    host.kill_agent()
    host.guard.kill()
    for guest in host.processes.started:
        guest.death_seconds = 0.0
        guest.kill()


def order(host: str, *, forced: bool = False) -> Order:
    return Order(host=host, by="root on b", reason="it hangs", forced=forced)


async def fenced(world: World, by: Host, switch: FakePowerSwitch, *, host: str = "a", forced: bool = False) -> int:
    """How many proofs were written."""
    context = by.context(contract=world.contract, chance=world.fresh_chance())
    broken = await fence(context, (switch,), order(host, forced=forced), answer_seconds=10.0)
    return len(broken.obituaries)


def obituary(world: World) -> Obituary:
    (stored,) = world.etcd.contents(KEYS.obituaries)
    return decode_obituary(stored)


def record(world: World, host: str = "a") -> Fencing:
    (stored,) = world.etcd.contents(KeyRange(KEYS.fencing(host)))
    return decode_fencing(stored).record


async def silent_host(world: World) -> Hypervisor:
    a = await hypervisor(world, "a")
    await a.start(VM, X)
    power_cut(a)
    await asyncio.sleep(world.timing.ttl_seconds + 2.0)
    return a


# --- on an order ----------------------------------------------------------------------------------------------------


def test_what_the_switch_confirms_off_frees_the_locks_and_the_proof_says_by_whom_and_how(play: Play) -> None:
    async def scenario(world: World) -> None:
        await silent_host(world)
        b = await hypervisor(world, "b")
        with pytest.raises(HeldElsewhere):
            await b.start(OTHER, X)
        assert await fenced(world, b.host, FakePowerSwitch("plug 3")) == 1
        assert obituary(world).proof is Proof.FENCE_AGENT
        assert (obituary(world).by, obituary(world).reason) == ("root on b", "it hangs; plug 3 confirmed off")
        assert (record(world).state, record(world).attempt) == (FencingState.OFF, 1)
        await b.start(OTHER, X)

    play(scenario)


@pytest.mark.parametrize("says", [Power.UNKNOWN, Power.ON])
def test_a_switch_that_does_not_say_off_proves_nothing_though_it_has_been_told(play: Play, says: Power) -> None:
    async def scenario(world: World) -> None:
        await silent_host(world)
        b, switch = await hypervisor(world, "b"), FakePowerSwitch("plug 3")
        switch.says = says
        with pytest.raises(NotConfirmedOff, match=f"plug 3: power is {says}"):
            await fenced(world, b.host, switch)
        assert (world.obituaries(), switch.calls) == ([], TRIES)
        assert (record(world).state, record(world).detail) == (FencingState.FAILED, f"plug 3: power is {says}")

    play(scenario)


def test_of_two_power_supplies_both_must_be_off(play: Play) -> None:
    async def scenario(world: World) -> None:
        await silent_host(world)
        b, one, two = world.host("b"), FakePowerSwitch("left"), FakePowerSwitch("right")
        two.fails = TRIES
        context = b.context(contract=world.contract, chance=world.fresh_chance())
        with pytest.raises(NotConfirmedOff, match="right: power is on"):
            await fence(context, (one, two), order("a"), answer_seconds=10.0)
        assert world.obituaries() == []
        assert len((await fence(context, (one, two), order("a"), answer_seconds=10.0)).obituaries) == 1
        assert record(world).attempt == 2

    play(scenario)


def test_a_switch_that_fails_is_tried_again_for_a_bounded_time(play: Play) -> None:
    async def scenario(world: World) -> None:
        await silent_host(world)
        switch = FakePowerSwitch("plug 3")
        switch.fails = TRIES - 1
        assert await fenced(world, world.host("b"), switch) == 1
        assert switch.calls == TRIES

    play(scenario)


def test_a_host_that_lives_is_refused_and_nothing_is_switched(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, switch = await hypervisor(world, "a"), FakePowerSwitch("plug 3")
        vm = await a.start(VM, X)
        with pytest.raises(SessionAlive):
            await fenced(world, world.host("b"), switch)
        assert (switch.calls, vm.runs) == (0, True)

    play(scenario)


def test_a_host_that_is_back_between_two_tries_is_left_alone(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, switch = await hypervisor(world, "a"), FakePowerSwitch("plug 3", seconds=4.0)
        vm = await a.start(VM, X)
        a.host.store.cut()
        await until(lambda: not world.sessions(a.host), within=world.timing.ttl_seconds + 2.0)
        switch.fails = TRIES
        fencing = asyncio.ensure_future(fenced(world, world.host("b"), switch))
        await asyncio.sleep(1.0)
        a.host.store.mend()
        with pytest.raises(SessionAlive):
            await fencing
        assert (switch.calls, vm.runs) == (1, True)
        assert record(world).state is FencingState.FAILED

    play(scenario)


@pytest.mark.parametrize("granted", [10, 30])
def test_a_host_that_hangs_is_switched_off_by_force_and_proven_once_its_key_is_gone(play: Play, granted: int) -> None:
    async def scenario(world: World) -> None:
        world.etcd.grant_at_least(granted)
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        switch = FakePowerSwitch("plug 3", cut=lambda: power_cut(a))
        assert await fenced(world, b.host, switch, forced=True) == 1
        assert (vm.runs, world.sessions(a.host)) == (False, [])
        await b.start(OTHER, X)

    play(scenario)


def test_a_switch_of_another_host_is_found_out_by_the_session_that_lives_on(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        with pytest.raises(NotConfirmedOff, match="does that switch belong to host a"):
            await fenced(world, b.host, FakePowerSwitch("plug 4"), forced=True)
        assert world.obituaries() == []
        with pytest.raises(HeldElsewhere):
            await b.start(OTHER, X)
        assert vm.runs

    play(scenario)


@pytest.mark.parametrize("host", ["b", "b.user-1000"])
def test_nobody_fences_the_machine_that_it_runs_on(play: Play, host: str) -> None:
    async def scenario(world: World) -> None:
        switch = FakePowerSwitch("plug 3")
        with pytest.raises(Refused, match="this very host"):
            await fenced(world, world.host("b"), switch, host=host, forced=True)
        assert switch.calls == 0

    play(scenario)


def test_a_host_that_the_cluster_does_not_know_is_no_host_to_fence(play: Play) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(InvalidInput, match="there is no host or session 'c'"):
            await fenced(world, world.host("b"), FakePowerSwitch("plug 3"), host="c")

    play(scenario)


# --- where only a fence agent or an operator is believed -----------------------------------------------------------


def test_an_agent_of_a_cluster_that_wants_fencing_never_takes_silence_for_a_proof(play: Play) -> None:
    async def scenario(world: World) -> None:
        await silent_host(world)
        b = await hypervisor(world, "b")
        for _ in range(20):
            with pytest.raises(HeldElsewhere, match="once a fence agent"):
                await b.start(OTHER, X)
            await asyncio.sleep(30.0)
        assert world.obituaries() == []
        assert await fenced(world, b.host, FakePowerSwitch("plug 3")) == 1
        await b.start(OTHER, X)

    play(scenario, takeover_needs="fence")


# --- by itself ------------------------------------------------------------------------------------------------------


def keep_fencing(world: World, host: Hypervisor, *switches: tuple[str, FakePowerSwitch]) -> asyncio.Future[None]:
    """What the agent of the host does besides, where it is told to."""
    assert host.agent is not None
    fencer = Fencer(
        host.host.context(
            contract=world.contract, chance=world.fresh_chance(), kind=SessionKind.AGENT, stall=host.stall
        ),
        member=host.agent.member,
        switches={name: (switch,) for name, switch in switches},
        after_seconds=AFTER_SECONDS,
        claim_seconds=60.0,
        answer_seconds=10.0,
    )
    return asyncio.ensure_future(fencer.keep())


async def cluster_of_four(world: World) -> tuple[Hypervisor, ...]:
    return tuple([await hypervisor(world, name) for name in "abcd"])


async def until(holds: Callable[[], bool], *, within: float) -> None:
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.1)


async def ended(*keeping: asyncio.Future[None]) -> None:
    for one in keeping:
        one.cancel()
        with suppress(asyncio.CancelledError):
            await one


def test_a_host_that_is_missing_is_fenced_once_though_all_see_it_and_its_locks_are_free_soon(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, c, d = await cluster_of_four(world)
        await a.start(VM, X)
        switch = FakePowerSwitch("plug 3", seconds=2.0)
        keeping = [keep_fencing(world, host, ("a", switch)) for host in (b, c, d)]
        await asyncio.sleep(3.0)
        power_cut(a)
        await until(lambda: bool(world.obituaries()), within=world.timing.ttl_seconds + 1.0 + AFTER_SECONDS + 6.0)
        await b.start(OTHER, X)
        await asyncio.sleep(100.0)
        assert switch.calls == 1
        assert obituary(world).proof is Proof.FENCE_AGENT
        assert "automatically" in record(world).reason
        await ended(*keeping)

    play(scenario)


def test_a_claimant_that_dies_is_followed_by_another(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, c, d = await cluster_of_four(world)
        await a.start(VM, X)
        hangs, works = FakePowerSwitch("plug of b", seconds=1000.0), FakePowerSwitch("plug of c", seconds=1.0)
        first = keep_fencing(world, b, ("a", hangs))
        power_cut(a)
        await until(lambda: hangs.calls == 1, within=40.0)
        second = keep_fencing(world, c, ("a", works))
        await asyncio.sleep(20.0)
        assert works.calls == 0
        await ended(first)
        power_cut(b)
        await until(lambda: bool(world.obituaries()), within=world.timing.ttl_seconds + 10.0)
        assert record(world).attempt == 2
        await ended(second)
        assert d.agent is not None

    play(scenario, takeover_needs="fence")     # else silence is proof before the second has had its turn


def test_an_agent_that_comes_back_in_time_is_not_fenced(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, _, _ = await cluster_of_four(world)
        vm, switch = await a.start(VM, X), FakePowerSwitch("plug 3", cut=lambda: power_cut(a))
        keeping = keep_fencing(world, b, ("a", switch))
        await asyncio.sleep(3.0)
        world.etcd.revoke_wrongly(world.leases(a.host)[0])
        await asyncio.sleep(60.0)
        assert (switch.calls, vm.runs) == (0, True)
        await ended(keeping)

    play(scenario)


def test_a_single_guests_session_that_ends_is_no_reason_to_switch_off_its_host(play: Play) -> None:
    async def scenario(world: World) -> None:
        _, b, _, _ = await cluster_of_four(world)
        switch = FakePowerSwitch("plug 3")
        keeping = keep_fencing(world, b, ("e", switch))
        run = world.start(world.host("e"), VM, X)
        await world.until_runs(run)
        await asyncio.sleep(12.0)  # seen
        await world.power_off(run)
        await asyncio.sleep(60.0)
        assert switch.calls == 0
        await ended(keeping)

    play(scenario)


def test_a_host_without_locks_is_not_fenced(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, _, _ = await cluster_of_four(world)
        switch = FakePowerSwitch("plug 3")
        keeping = keep_fencing(world, b, ("a", switch))
        await asyncio.sleep(3.0)
        power_cut(a)
        await asyncio.sleep(60.0)
        assert switch.calls == 0
        await ended(keeping)

    play(scenario)


def test_when_most_hosts_are_missing_nobody_is_switched_off(play: Play) -> None:
    async def scenario(world: World) -> None:
        hosts = await cluster_of_four(world)
        *others, last = hosts
        for number, host in enumerate(others):
            await host.start(domain(number + 1), disk(host.host.name))
        switches = [(host.host.name, FakePowerSwitch(f"plug of {host.host.name}")) for host in others]
        keeping = keep_fencing(world, last, *switches)
        await asyncio.sleep(3.0)
        for host in others:
            power_cut(host)
        await asyncio.sleep(100.0)
        assert [switch.calls for _, switch in switches] == [0, 0, 0]
        await ended(keeping)

    play(scenario)


def test_a_switch_that_never_works_is_given_up_after_as_many_attempts_for_all_hosts_together(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, c, d = await cluster_of_four(world)
        await a.start(VM, X)
        switch = FakePowerSwitch("plug 3")
        switch.fails = 10_000
        keeping = [keep_fencing(world, host, ("a", switch)) for host in (b, c, d)]
        power_cut(a)
        await asyncio.sleep(600.0)
        assert switch.calls == MOST_ATTEMPTS * TRIES
        assert record(world).attempt == MOST_ATTEMPTS
        assert record(world).state is FencingState.FAILED
        await ended(*keeping)

    play(scenario, takeover_needs="fence")


def test_a_host_that_cannot_prove_its_own_session_fences_nobody(play: Play) -> None:
    """It would see the others missing once it is back; by then they have sessions, or others have seen to it."""

    async def scenario(world: World) -> None:
        a, b, _, _ = await cluster_of_four(world)
        await a.start(VM, X)
        switch = FakePowerSwitch("plug 3")
        keeping = keep_fencing(world, b, ("a", switch))
        await asyncio.sleep(3.0)
        power_cut(a)
        await asyncio.sleep(world.timing.ttl_seconds + 2.0)
        assert b.agent is not None
        b.agent.member.found_missing(b.agent.member.session.ref)
        stale = b.agent.member.session
        context = b.host.context(contract=world.contract, chance=world.fresh_chance())
        world.etcd.revoke_wrongly(world.leases(b.host)[0])
        alone = Order(host="a", by="b", reason="automatically", session=stale)
        with pytest.raises(Refused, match="is being fenced by another, or session of b is gone"):
            await fence(context, (switch,), alone, answer_seconds=10.0)
        assert switch.calls == 0
        await ended(keeping)

    play(scenario)
