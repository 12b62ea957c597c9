"""A host's agent that is asked while etcd is away for a moment asks etcd again, inside its bound and never blindly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from etcdlock.errors import HeldElsewhere, OutcomeUnknown, SessionLost, Superseded, Unreachable, UnsteadyClock
from etcdlock.testing import Fault, Link
from tests.promises.conftest import Play
from tests.promises.hypervisor import ACQUIRE_SECONDS, Hypervisor, hypervisor
from tests.promises.vm import Vm
from tests.promises.world import World, disk, domain, locks

VM, OTHER = domain(1), domain(2)
X, Y = disk("x"), disk("y")
AT_ONCE_SECONDS = 0.1

Asked = Callable[[], Awaitable[Vm]]
Scene = tuple[Hypervisor, Asked]


async def started(world: World) -> Scene:
    a = await hypervisor(world, "a")
    return a, lambda: a.start(VM, X, Y)


async def resumed(world: World) -> Scene:
    a = await hypervisor(world, "a")
    vm = await a.start(VM, X, Y)
    a.pause(vm)
    await asyncio.sleep(0.1)

    async def resume() -> Vm:
        await a.resume(vm)
        return vm

    return a, resume


async def moved(world: World) -> Scene:
    a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
    vm = await a.start(VM, X, Y)
    a.pause(vm)
    await asyncio.sleep(0.1)
    return b, lambda: b.start(VM, X, Y, incoming=True)


async def plugged(world: World) -> Scene:
    a = await hypervisor(world, "a")
    vm = await a.start(VM, X)

    async def plug() -> Vm:
        await a.plug(vm, Y)
        return vm

    return a, plug


SCENES = [started, resumed, moved, plugged]


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: str(scene.__name__))
@pytest.mark.parametrize("link", [Link.CUT, Link.REFUSED, Link.HUNG])
@pytest.mark.parametrize("after", [0.0, 0.0005, 0.0015, 0.004])
def test_an_outage_of_a_second_delays_a_yes_and_does_not_make_it_a_no(
    play: Play, scene: Callable[[World], Awaitable[Scene]], link: Link, after: float
) -> None:
    async def scenario(world: World) -> None:
        host, ask = await scene(world)
        asking = asyncio.ensure_future(ask())
        await asyncio.sleep(after)
        host.host.store.cut(link)
        await asyncio.sleep(1.0)
        host.host.store.mend()
        assert (await asking).runs

    play(scenario)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: str(scene.__name__))
@pytest.mark.parametrize("fault", [Fault.REQUEST, Fault.ANSWER, Fault.LATE])
def test_answers_that_are_lost_are_settled_before_anything_is_asked_again(
    play: Play, scene: Callable[[World], Awaitable[Scene]], fault: Fault
) -> None:
    async def scenario(world: World) -> None:
        host, ask = await scene(world)
        host.host.store.lose(fault, count=2, when=locks, delay_seconds=3.0)
        assert (await ask()).runs
        await asyncio.sleep(10.0)
        assert all(vm.runs for vm in host.vms)

    play(scenario)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: str(scene.__name__))
@pytest.mark.parametrize("link", [Link.CUT, Link.REFUSED, Link.HUNG])
@pytest.mark.parametrize("sent", [False, True], ids=["nothing was sent", "what was sent is not answered"])
def test_an_outage_that_lasts_is_told_in_time_and_says_what_it_is(
    play: Play, scene: Callable[[World], Awaitable[Scene]], link: Link, sent: bool
) -> None:
    async def scenario(world: World) -> None:
        host, ask = await scene(world)
        host.host.store.lose(Fault.ANSWER, count=int(sent), when=locks)
        begun, heard = now(), len(world.etcd.history)
        asking = asyncio.ensure_future(ask())
        while sent and not host.is_in_doubt(since=heard):
            await asyncio.sleep(0.0001)
        host.host.store.cut(link)
        with pytest.raises((Unreachable, OutcomeUnknown, SessionLost)) as refused:
            await asking
        assert now() - begun <= ACQUIRE_SECONDS + AT_ONCE_SECONDS
        assert "the door" not in str(refused.value)

    play(scenario)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: str(scene.__name__))
def test_a_session_that_is_lost_just_then_is_joined_anew_first(
    play: Play, scene: Callable[[World], Awaitable[Scene]]
) -> None:
    async def scenario(world: World) -> None:
        host, ask = await scene(world)
        world.etcd.revoke_wrongly(world.leases(host.host)[0])
        assert (await ask()).runs

    play(scenario)


def test_a_migration_survives_a_second_without_etcd_at_its_switch_over_on_both_sides(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X, Y)
        moving = asyncio.ensure_future(a.migrate(vm, b))
        await asyncio.sleep(0.0005)
        for host in (a, b):
            host.host.store.cut(Link.REFUSED)
        await asyncio.sleep(1.0)
        for host in (a, b):
            host.host.store.mend()
        assert (await moving).runs

    play(scenario)


def test_a_definite_no_is_passed_on_at_once(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        begun = now()
        with pytest.raises(HeldElsewhere):
            await b.start(OTHER, X)
        a.pause(vm)
        await b.start(VM, X, incoming=True)
        with pytest.raises(Superseded):
            await a.resume(vm)
        a.host.clock.steer(0.01)
        with pytest.raises(UnsteadyClock):
            await a.start(OTHER, Y)
        assert now() - begun <= AT_ONCE_SECONDS

    play(scenario)


def test_a_guest_that_ends_while_etcd_is_asked_again_is_given_up_at_the_next_try(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        a.host.store.cut(Link.REFUSED)
        asking = asyncio.ensure_future(a.start(VM, X))
        await asyncio.sleep(0.5)
        begun = now()
        a.vms[0].guest.end()
        await asyncio.gather(asking, return_exceptions=True)
        assert now() - begun < ACQUIRE_SECONDS / 2
        assert a.agent is not None
        a.host.store.mend()
        await asyncio.sleep(3.0)
        assert a.agent.residents == ()

    play(scenario)
