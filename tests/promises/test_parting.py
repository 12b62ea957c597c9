"""Where the kernel cannot tell whether a guest is gone, it lives: what it holds is given to nobody else."""

from __future__ import annotations

import asyncio

import pytest

from etcdlock.errors import HeldElsewhere
from tests.promises.conftest import Play
from tests.promises.hypervisor import hypervisor
from tests.promises.world import World, disk, domain

VM, OTHER, X = domain(1), domain(2), disk("x")


def test_an_agent_that_cannot_be_told_of_a_guests_end_keeps_its_locks_until_it_is(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = a.prepare(VM, X)
        vm.guest.untold = 3
        await a.let_run_or_kill(vm)
        await asyncio.sleep(1.0)
        with pytest.raises(HeldElsewhere):
            await b.start(OTHER, X)
        await asyncio.sleep(5.0)
        assert vm.runs
        vm.guest.end()
        await asyncio.sleep(1.0)
        await b.start(OTHER, X)

    play(scenario)


def test_nor_does_a_program_give_back_what_its_own_guest_has(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = world.host("a"), world.host("b")
        run = world.start(a, VM, X)
        while not run.guests.started:
            await asyncio.sleep(0.0001)
        run.guests.started[0].untold = 3
        guest = await world.until_runs(run)
        with pytest.raises(HeldElsewhere):
            await world.start(b, OTHER, X).ended
        await asyncio.sleep(5.0)
        guest.end(7)
        assert (await run.ended).status.code == 7

    play(scenario)


def test_one_that_must_die_is_struck_until_it_has(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = world.host("a")
        run = world.start(a, VM, X)
        guest = await world.until_runs(run)
        guest.stuck, guest.untold = True, 1
        a.store.cut()
        await asyncio.sleep(world.timing.stop_after_seconds + 3.0)
        guest.stuck, guest.killed_at = False, None  # whatever kept it from dying is over: the next stroke hits
        await asyncio.sleep(1.0)
        assert guest.gone_at is not None

    play(scenario)
