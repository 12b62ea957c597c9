"""Virtual time jumps, keeps order, and complains instead of hanging."""

from __future__ import annotations

import asyncio
import socket
import threading
from datetime import timedelta

import pytest

from etcdlock.ports import Clock
from etcdlock.testing import (
    FakeClock,
    VirtualDeadlock,
    VirtualOnly,
    VirtualSpin,
    VirtualTimeLimit,
    run_virtual,
    virtual,
)
from etcdlock.testing.virtual import LONGEST_LIMIT_SECONDS


def test_an_hour_passes_at_once_and_sleepers_wake_in_the_order_of_their_time() -> None:
    async def program() -> list[tuple[str, float]]:
        woke: list[tuple[str, float]] = []

        async def sleeper(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            woke.append((name, asyncio.get_running_loop().time()))

        async with asyncio.TaskGroup() as group:
            for name, seconds in (("late", 3000.0), ("early", 0.5), ("first of two", 7.0), ("second of two", 7.0)):
                group.create_task(sleeper(name, seconds))
        return woke

    expected = [("early", 0.5), ("first of two", 7.0), ("second of two", 7.0), ("late", 3000.0)]
    assert run_virtual(program) == expected


def test_a_running_coroutine_is_taken_as_well_as_a_function_and_its_result_is_returned() -> None:
    async def program() -> int:
        await asyncio.sleep(1)
        return 7

    assert run_virtual(program()) == run_virtual(program) == 7


def test_what_the_program_raises_comes_out() -> None:
    async def program() -> None:
        await asyncio.sleep(1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_virtual(program)


def test_waiting_for_what_never_comes_is_a_deadlock_that_names_the_place() -> None:
    async def program() -> None:
        await asyncio.sleep(1)
        await asyncio.Event().wait()

    with pytest.raises(VirtualDeadlock, match=r"locks\.py"):
        run_virtual(program)


def test_a_program_past_its_limit_is_ended_and_may_clean_up() -> None:
    cleaned: list[float] = []

    async def program() -> None:
        try:
            while True:
                await asyncio.sleep(1)
        finally:
            await asyncio.sleep(5)
            cleaned.append(asyncio.get_running_loop().time())

    with pytest.raises(VirtualTimeLimit, match="not done after 10 virtual seconds"):
        run_virtual(program, limit_seconds=10)
    assert cleaned == [15.0]


def test_a_program_within_its_limit_is_left_alone() -> None:
    run_virtual(asyncio.sleep(10), limit_seconds=10)


def test_spinning_without_letting_time_pass_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual, "SPINS_BEFORE_COMPLAINT", 1000)

    async def program() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(VirtualSpin, match="no time passes"):
        run_virtual(program)


def test_tiny_steps_far_from_the_start_still_move_time() -> None:
    async def program() -> float:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(LONGEST_LIMIT_SECONDS - 1)
        for _ in range(10):
            await asyncio.sleep(1e-12)
            await asyncio.sleep(1e-7)
        return loop.time()

    assert run_virtual(program, limit_seconds=LONGEST_LIMIT_SECONDS) >= LONGEST_LIMIT_SECONDS - 1 + 9e-7
    with pytest.raises(ValueError, match="limit"):
        run_virtual(program, limit_seconds=LONGEST_LIMIT_SECONDS * 2)


def test_sockets_threads_and_processes_are_refused() -> None:
    async def connect() -> None:
        await asyncio.open_connection("127.0.0.1", 1)

    async def listen() -> None:
        with socket.create_server(("127.0.0.1", 0)) as door:
            door.setblocking(False)
            await asyncio.get_running_loop().sock_accept(door)

    async def thread() -> None:
        await asyncio.to_thread(int)

    async def called_from_a_thread() -> None:
        loop, caught = asyncio.get_running_loop(), list[VirtualOnly]()

        def call() -> None:
            try:
                loop.call_soon_threadsafe(int)
            except VirtualOnly as refusal:
                caught.append(refusal)

        other = threading.Thread(target=call)
        other.start()
        other.join()
        raise caught[0]

    for program in (connect, listen, thread, called_from_a_thread):
        with pytest.raises(VirtualOnly):
            run_virtual(program)


def test_a_fast_clock_runs_fast_and_sleeps_short() -> None:
    async def program() -> tuple[float, float, float]:
        clock: Clock = FakeClock(1.25, offset=1000.0)
        before = clock.now()
        await clock.sleep(10.0)
        return before, clock.now() - before, asyncio.get_running_loop().time()

    before, slept, true_time = run_virtual(program)
    assert before == 1000.0
    assert slept == pytest.approx(10.0)
    assert true_time == pytest.approx(8.0)


@pytest.mark.parametrize("rate", [0.9991, 1.0, 1.0007, 3.3])
def test_a_sleep_never_ends_early_on_its_own_clock(rate: float) -> None:
    async def program() -> None:
        clock = FakeClock(rate, offset=12345.678)
        for step in range(1, 300):
            wake_at = clock.now() + step * 0.1
            await clock.sleep(step * 0.1)
            # What a caller computes has one rounding more than what the clock does.
            assert wake_at - 1e-9 <= clock.now() < wake_at + 1e-5

    run_virtual(program, limit_seconds=1e6)


def test_after_a_jump_sleepers_whose_time_has_come_wake_at_once_and_others_in_their_time() -> None:
    async def program() -> list[tuple[float, float]]:
        clock, woke = FakeClock(), list[tuple[float, float]]()

        async def sleeper(seconds: float) -> None:
            await clock.sleep(seconds)
            woke.append((clock.now(), asyncio.get_running_loop().time()))

        async with asyncio.TaskGroup() as group:
            for seconds in (30.0, 70.0):
                group.create_task(sleeper(seconds))
            await asyncio.sleep(1.0)
            clock.jump(60.0)
        return woke

    assert run_virtual(program) == [(61.0, 1.0), (70.0, 10.0)]


def test_clocks_never_run_or_jump_backward() -> None:
    with pytest.raises(ValueError, match="rate"):
        FakeClock(0.0)
    with pytest.raises(ValueError, match="never set back"):
        FakeClock().jump(-1.0)


def test_the_time_of_day_follows_true_time() -> None:
    async def program() -> timedelta:
        clock = FakeClock(2.0)
        before = clock.wall()
        clock.jump(100.0)
        await asyncio.sleep(90)
        return clock.wall() - before

    assert run_virtual(program) == timedelta(seconds=90)


def test_the_time_of_day_can_be_set_and_the_clock_that_decides_does_not_notice() -> None:
    async def program() -> tuple[timedelta, float]:
        clock = FakeClock()
        before, now = clock.wall(), clock.now()
        clock.set_wall(3600.0)
        return clock.wall() - before, clock.now() - now

    assert run_virtual(program) == (timedelta(hours=1), 0.0)


def test_a_set_of_tasks_is_gone_through_in_the_order_of_their_numbers_wherever_they_are_in_memory() -> None:
    async def program() -> list[str]:
        ballast = [asyncio.ensure_future(asyncio.sleep(0)) for _ in range(20)]
        tasks = {asyncio.ensure_future(asyncio.sleep(1)) for _ in range(6)}
        del ballast
        names = [task.get_name() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        hashes = [hash(task) for task in tasks]
        assert len(set(hashes)) == len(hashes)
        return [str(number) for number in hashes] + names

    assert run_virtual(program)[:6] == run_virtual(program)[:6]
