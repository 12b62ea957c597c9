"""The guard of fake hosts goes by the real one's rules, on its own, and may be late, paused and dead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from etcdlock.errors import GuardLost, SessionLost
from etcdlock.escalation import Action, Charge
from etcdlock.guarding import limits_of
from etcdlock.testing import FakeClock, FakeGuest, GuardLine, RuledGuard, run_virtual, steady
from etcdlock.timing import Timing

TIMING = Timing()
STOP = TIMING.stop_after_seconds
FROZEN = Charge(Action.FREEZE)


def a_guest() -> FakeGuest:
    return FakeGuest(["guest"], environment={}, pid=1, life_seconds=None, death_seconds=0.0)


async def nothing() -> None:
    """The program is not paused."""


def a_line(**options: Any) -> GuardLine:
    return GuardLine(RuledGuard(FakeClock(), limits=limits_of(TIMING), **options), over=nothing)


Scene = Callable[[GuardLine, FakeGuest], Coroutine[Any, Any, None]]


def played(scene: Scene, **options: Any) -> None:
    async def program() -> None:
        line = a_line(**options)
        await scene(line, a_guest())
        line.kill()

    run_virtual(program)


@pytest.mark.parametrize("lag", [0.0, 0.9])
def test_it_kills_at_the_deadline_or_as_late_as_it_is_scheduled(lag: float) -> None:
    async def scene(line: GuardLine, guest: FakeGuest) -> None:
        await line.prove("s", at=0.0)
        await line.arm(guest, session="s")
        line.guard.let_go(children=False)
        await asyncio.sleep(60.0)
        assert guest.killed_at is not None
        assert STOP <= guest.killed_at <= STOP + lag + 1e-6
        assert not line.guard.lives, "alone, with nobody left"

    played(scene, lag_seconds=steady(lag))


def test_it_takes_in_no_guest_of_a_session_that_is_not_proven() -> None:
    async def scene(line: GuardLine, guest: FakeGuest) -> None:
        with pytest.raises(SessionLost):
            await line.arm(guest, session="s")
        await line.prove("s", at=0.0)
        await asyncio.sleep(STOP)
        with pytest.raises(SessionLost):
            await line.arm(guest, session="s")
        assert len(line.guard.guests) == 0

    played(scene)


def test_a_frozen_guest_goes_on_only_once_it_is_armed_anew() -> None:
    async def scene(line: GuardLine, guest: FakeGuest) -> None:
        await line.prove("s", at=0.0)
        await line.arm(guest, session="s", charge=FROZEN)
        await asyncio.sleep(30.0)
        assert guest.stands()
        assert line.frozen == {(guest.pid, guest.pid_start)}
        with pytest.raises(SessionLost):
            await line.go_on(guest)
        await line.prove("t", at=30.0)
        await line.arm(guest, session="t", charge=FROZEN)
        await line.go_on(guest)
        assert not guest.stands()
        assert line.frozen == frozenset()

    played(scene)


def test_one_that_was_frozen_is_killed_once_the_program_that_started_it_is_gone() -> None:
    async def scene(line: GuardLine, guest: FakeGuest) -> None:
        await line.prove("s", at=0.0)
        await line.arm(guest, session="s", charge=FROZEN)
        await asyncio.sleep(30.0)
        line.guard.let_go(children=True)
        await asyncio.sleep(1.0)
        assert guest.killed_at is not None

    played(scene)


def test_one_that_is_paused_answers_nobody_in_time_and_obeys_afterwards() -> None:
    async def scene(line: GuardLine, guest: FakeGuest) -> None:
        await line.prove("s", at=0.0)
        line.guard.pause()
        with pytest.raises(GuardLost):
            await line.arm(guest, session="s")
        assert not line.guard.guests
        line.guard.go_on()
        await asyncio.sleep(0.1)
        assert len(line.guard.guests) == 1

    played(scene)


def test_of_two_clocks_the_one_that_moved_more_counts() -> None:
    async def scene(line: GuardLine, guest: FakeGuest) -> None:
        await line.prove("s", at=0.0)
        await line.arm(guest, session="s")
        await asyncio.sleep(60.0)
        assert guest.killed_at == pytest.approx(STOP / 2, abs=0.3)

    async def program() -> None:
        line = a_line(steered=FakeClock(2.0))
        await scene(line, a_guest())
        line.kill()

    run_virtual(program)


def test_asked_to_give_way_it_ends_once_nothing_is_being_stopped() -> None:
    async def scene(line: GuardLine, guest: FakeGuest) -> None:
        guest.stuck = True
        await line.prove("s", at=0.0)
        await line.arm(guest, session="s")
        await line.close()
        await asyncio.sleep(STOP + 1.0)
        line.guard.give_way()
        await asyncio.sleep(5.0)
        assert line.guard.lives
        guest.thaw()
        await asyncio.sleep(1.0)
        assert not line.guard.lives

    played(scene)
