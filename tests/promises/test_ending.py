"""An agent that is told to end while its host has guests: it keeps their locks and ends, or refuses and goes on."""

from __future__ import annotations

import asyncio

import pytest

from etcdlock.cli.ending import MEANT_SECONDS, Ending, OnGuests
from etcdlock.journal import JOURNAL, Event
from tests.promises.conftest import Play
from tests.promises.hypervisor import Hypervisor, hypervisor
from tests.promises.world import World, disk, domain

VM, X = domain(1), disk("x")


def ending_of(a: Hypervisor, on_guests: OnGuests) -> tuple[Ending, asyncio.Event]:
    ended = asyncio.Event()
    assert a.agent is not None
    return Ending(a.agent, a.host.clock, on_guests=on_guests, end=ended.set), ended


@pytest.mark.parametrize(("on_guests", "guests"), [(OnGuests.KEEP, 0), (OnGuests.KEEP, 1), (OnGuests.REFUSE, 0)])
def test_it_ends_when_it_is_told_to_unless_it_refuses_for_guests(
    play: Play, on_guests: OnGuests, guests: int
) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        if guests:
            await a.start(VM, X)
        ending, ended = ending_of(a, on_guests)
        ending.tell()
        assert ended.is_set()

    play(scenario)


@pytest.mark.parametrize("parked", [False, True])
def test_it_refuses_while_there_are_guests_and_names_them(play: Play, parked: bool) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        if parked:
            a.pause(vm)
        ending, ended = ending_of(a, OnGuests.REFUSE)
        told: list[Event] = []
        with JOURNAL.listening(told.append):
            ending.tell()
        assert not ended.is_set()
        refused = [event for event in told if event.name == "stop_refused"]
        assert [event.fields["guests"] for event in refused] == [str(vm.owner)]
        vm.guest.end()
        await asyncio.sleep(5.0)
        ending.tell()
        assert ended.is_set()

    play(scenario)


@pytest.mark.parametrize(("pause", "ends"), [(0.0, True), (MEANT_SECONDS - 0.1, True), (MEANT_SECONDS + 0.1, False)])
def test_who_tells_it_twice_in_a_short_time_means_it(play: Play, pause: float, ends: bool) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        await a.start(VM, X)
        ending, ended = ending_of(a, OnGuests.REFUSE)
        ending.tell()
        await asyncio.sleep(pause)
        ending.tell()
        assert ended.is_set() is ends

    play(scenario)
