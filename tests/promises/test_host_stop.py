"""An agent that is told to end says what it still has to say; guests keep their locks, and nothing else is left."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from etcdlock.errors import EtcdlockError, Refused
from etcdlock.model import LockState
from tests.promises.conftest import Play
from tests.promises.hypervisor import Hypervisor, hypervisor
from tests.promises.judge import left_behind
from tests.promises.world import KEYS, World, disk, domain

VM, OTHER = domain(1), domain(2)
X, Y = disk("x"), disk("y")


def test_an_agent_told_to_end_leaves_session_and_locks_to_the_next_one_and_says_what_was_not_said_yet(
    play: Play,
) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X, Y)
        session = world.sessions(a.host)
        a.pause(vm)
        await a.stop_agent()
        assert a.state(VM) is LockState.PARKED
        await a.bring_up()
        assert world.sessions(a.host) == session
        await a.resume(vm)
        await a.migrate(vm, b)

    play(scenario)


def test_an_agent_without_guests_that_is_told_to_end_leaves_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        (await a.start(VM, X)).guest.end()
        await asyncio.sleep(0.1)
        a.prepare(OTHER, Y)  # it has taken nothing yet
        await a.stop_agent()
        assert left_behind(world) == []

    play(scenario)


@pytest.mark.parametrize("millisecond", range(14))
def test_an_agent_told_to_end_while_a_guest_starts_says_yes_and_stays_or_says_no_and_leaves(
    play: Play, millisecond: int
) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        starting = asyncio.ensure_future(a.start(VM, X, Y))
        await asyncio.sleep(millisecond / 1000)
        await a.stop_agent()
        with suppress(EtcdlockError):
            await starting
        vm = a.vms[0]
        assert bool(world.sessions(a.host)) == bool(world.etcd.contents(KEYS.domains))
        assert vm.runs <= (a.state(VM) is LockState.HELD)
        await a.bring_up()
        await asyncio.sleep(1.0)
        assert vm.runs == (a.state(VM) is LockState.HELD)

    play(scenario)


@pytest.mark.parametrize("held", [False, True], ids=["with nothing held", "with a guest"])
def test_an_agent_told_to_end_ends_in_time_though_etcd_is_away(play: Play, held: bool) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        if not held:
            vm.guest.end()
            await asyncio.sleep(0.1)
        a.host.store.cut()
        if held:
            a.pause(vm)
        async with asyncio.timeout(20.0):
            await a.stop_agent()

    play(scenario)


def test_while_an_agent_says_what_it_still_has_to_say_nothing_new_is_taken(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        a.host.store.cut()
        a.pause(vm)
        stopping = asyncio.ensure_future(a.stop_agent())
        await asyncio.sleep(0.1)
        with pytest.raises(Refused, match="starting or stopping"):
            await a.start(OTHER, Y)
        a.host.store.mend()
        await stopping
        assert a.state(VM) is LockState.PARKED

    play(scenario)


def test_an_agent_told_to_end_while_it_joins_leaves_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = Hypervisor(world, world.host("a"))
        a.host.store.cut()
        a.start_agent()
        await asyncio.sleep(1.0)
        async with asyncio.timeout(10.0):
            await a.stop_agent()
        a.host.store.mend()
        await asyncio.sleep(20.0)
        assert left_behind(world) == []

    play(scenario)


def test_an_agent_told_to_end_before_it_knows_its_guests_leaves_them_to_the_next_one(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        session = world.sessions(a.host)
        a.kill_agent()
        a.start_agent()
        await asyncio.sleep(0.0055)
        assert a.agent is not None
        assert not a.agent.ready.is_set()
        await a.stop_agent()
        assert world.sessions(a.host) == session
        await a.bring_up()
        assert vm.runs

    play(scenario)
