"""Fake guests and the fake guard behave as the ports say."""

from __future__ import annotations

import asyncio
import signal

import pytest

from etcdlock.errors import GuardLost, GuestNotStarted, SessionLost
from etcdlock.ports import ExitStatus
from etcdlock.testing import FakeClock, FakeGuard, FakeGuest, FakeGuests, run_virtual


async def started(guests: FakeGuests) -> FakeGuest:
    await guests.start(["command"], environment={"A": "b"})
    return guests.started[-1]


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_guest_runs_from_the_opening_of_its_gate_to_its_own_end() -> None:
    async def program() -> None:
        guest = await started(FakeGuests(life_seconds=5.0))
        await asyncio.sleep(1.0)
        ran = [guest.runs]
        guest.open_gate(token=7)
        ran.append(guest.runs)
        assert ran == [False, True]
        assert await guest.gone() == ExitStatus(0)
        assert (guest.token, guest.opened_at, guest.gone_at) == (7, 1.0, 6.0)

    run_virtual(program)


def test_a_guest_that_is_killed_is_gone_only_when_its_dying_is_over() -> None:
    async def program() -> None:
        guest = await started(FakeGuests(death_seconds=3.0))
        guest.open_gate(token=1)
        guest.kill()
        guest.kill()
        assert guest.runs
        assert await guest.gone() == ExitStatus(0, signal.SIGKILL)
        assert guest.gone_at == 3.0

    run_virtual(program)


def test_a_guest_that_is_stuck_dies_when_it_thaws() -> None:
    async def program() -> None:
        guest = await started(FakeGuests())
        guest.stuck = True
        guest.kill()
        await asyncio.sleep(100.0)
        assert guest.gone_at is None
        guest.thaw()
        assert (await guest.gone()).signal == signal.SIGKILL

    run_virtual(program)


def test_a_killed_guest_can_never_be_let_run_nor_one_twice() -> None:
    async def program() -> None:
        killed, running = await started(FakeGuests()), await started(FakeGuests())
        killed.kill()
        running.open_gate(token=1)
        for guest in (killed, running):
            with pytest.raises(RuntimeError, match="opened or refused"):
                guest.open_gate(token=2)

    run_virtual(program)


def test_signals_reach_it_while_it_lives_and_only_some_end_it() -> None:
    async def program() -> None:
        guest = await started(FakeGuests())
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR2):
            guest.signal(number)
        assert guest.signals == [signal.SIGUSR1, signal.SIGTERM]
        assert await guest.gone() == ExitStatus(0, signal.SIGTERM)

    run_virtual(program)


def test_waiting_for_the_end_can_be_given_up_without_changing_it() -> None:
    async def program() -> None:
        guest = await started(FakeGuests())
        waiting = asyncio.ensure_future(guest.gone())
        await asyncio.sleep(1.0)
        waiting.cancel()
        guest.end(3)
        assert await guest.gone() == ExitStatus(3)

    run_virtual(program)


def test_a_command_that_is_refused_starts_nothing() -> None:
    async def program() -> None:
        guests = FakeGuests()
        guests.refuse = True
        with pytest.raises(GuestNotStarted):
            await guests.start(["command"], environment={})
        with pytest.raises(GuestNotStarted):
            await FakeGuests().start([], environment={})
        assert guests.started == []

    run_virtual(program)


def test_the_guard_kills_at_the_deadline_of_the_session_and_moves_it_with_every_proof() -> None:
    async def program() -> None:
        clock = FakeClock(offset=50.0)
        guard = FakeGuard(clock, stop_after_seconds=10.0, lag_seconds=1.0)
        one, other = await started(FakeGuests()), await started(FakeGuests(first_pid=5))
        await guard.prove("s", at=50.0)
        await guard.prove("t", at=50.0)
        await guard.arm(one, session="s")
        await guard.arm(other, session="t")
        await asyncio.sleep(4.0)
        await guard.prove("s", at=54.0)
        await guard.prove("s", at=52.0)  # older: changes nothing
        await asyncio.sleep(30.0)
        assert (other.killed_at, one.killed_at) == (11.0, 15.0)
        assert guard.armed == frozenset()

    run_virtual(program)


def test_the_guard_takes_no_guest_under_a_session_that_is_not_proven_and_forgets_one_that_is_disarmed() -> None:
    async def program() -> None:
        guard = FakeGuard(FakeClock(), stop_after_seconds=10.0)
        guest = await started(FakeGuests())
        with pytest.raises(SessionLost):
            await guard.arm(guest, session="never heard of")
        await guard.prove("s", at=0.0)
        await guard.arm(guest, session="s")
        await guard.disarm(guest)
        await asyncio.sleep(20.0)
        assert guest.killed_at is None
        with pytest.raises(SessionLost):
            await guard.arm(guest, session="s")

    run_virtual(program)


def test_a_dead_guard_answers_nothing_and_kills_nobody() -> None:
    async def program() -> None:
        guard = FakeGuard(FakeClock(), stop_after_seconds=10.0)
        guest = await started(FakeGuests())
        await guard.prove("s", at=0.0)
        await guard.arm(guest, session="s")
        guard.kill()
        await guard.died()
        for call in (guard.prove("s", at=1.0), guard.arm(guest, session="s"), guard.disarm(guest)):
            with pytest.raises(GuardLost):
                await call
        await asyncio.sleep(20.0)
        assert guest.killed_at is None

    run_virtual(program)


def test_a_guest_that_stood_behind_its_gate_has_run_from_when_that_was_opened() -> None:
    async def program() -> None:
        guest = await started(FakeGuests())
        await asyncio.sleep(1.0)
        guest.freeze()
        await asyncio.sleep(1.0)
        guest.go_on()
        await asyncio.sleep(1.0)
        guest.open_gate(token=1)
        assert guest.ran == [(3.0, None)]

    run_virtual(program)
