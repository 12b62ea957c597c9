"""What must not be left half done is done; what may be repeated is repeated for a bounded time."""

from __future__ import annotations

import asyncio
import random

import pytest

from etcdlock.agent.context import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Context, undisturbed
from etcdlock.errors import AccessDenied, EtcdlockError, OutcomeUnknown, Unreachable
from etcdlock.keyspace import Keyspace
from etcdlock.model import Machine, SessionKind
from etcdlock.session import Contract
from etcdlock.testing import FakeClock, FakeEtcd, run_virtual
from etcdlock.timing import Timing


def context() -> Context:
    return Context(
        store=FakeEtcd().client("a"),
        clock=FakeClock(offset=1000.0),
        keys=Keyspace(),
        contract=Contract(Timing()),
        host="a",
        machine=Machine("b", "m"),
        kind=SessionKind.RUN,
        version="1",
        chance=random.Random(1),  # noqa: S311 - must be repeatable
    )


def test_what_runs_undisturbed_comes_to_its_end_however_often_it_is_cancelled() -> None:
    done: list[float] = []

    async def part() -> None:
        await asyncio.sleep(10.0)
        done.append(asyncio.get_running_loop().time())

    async def program() -> None:
        task = asyncio.ensure_future(undisturbed(part()))
        for _ in range(5):
            await asyncio.sleep(1.0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtual(program)
    assert done == [10.0]


def test_what_runs_undisturbed_hands_on_its_result_and_its_error() -> None:
    async def seven() -> int:
        return 7

    async def fails() -> None:
        raise Unreachable("away")

    async def program() -> None:
        assert await undisturbed(seven()) == 7
        with pytest.raises(Unreachable, match="away"):
            await undisturbed(fails())

    run_virtual(program)


@pytest.mark.parametrize("error", [Unreachable("away"), OutcomeUnknown("who knows")])
def test_what_had_no_answer_is_repeated_until_its_time_is_over_and_then_raised(error: EtcdlockError) -> None:
    async def program() -> None:
        surroundings = context()
        tries = await tries_until_raised(surroundings, error, until=1020.0)
        assert 10 < tries < 30
        assert 1020.0 <= surroundings.clock.now() < 1020.0 + LONGEST_PAUSE_SECONDS

    run_virtual(program)


async def tries_until_raised(surroundings: Context, error: EtcdlockError, *, until: float) -> int:
    tries = 0

    async def fails() -> None:
        nonlocal tries
        async for attempt in surroundings.patiently(until=until):
            with attempt:
                tries += 1
                raise error

    with pytest.raises(type(error)):
        await fails()
    return tries


def test_a_definite_refusal_is_not_repeated() -> None:
    async def program() -> None:
        assert await tries_until_raised(context(), AccessDenied("no"), until=2000.0) == 1

    run_virtual(program)


def test_pauses_grow_with_jitter_up_to_a_limit() -> None:
    pauses = [context().backoff_seconds(failures) for failures in (1, 2, 5, 50, 5000)]
    assert FIRST_PAUSE_SECONDS / 2 <= pauses[0] <= FIRST_PAUSE_SECONDS
    assert all(LONGEST_PAUSE_SECONDS / 2 <= pause <= LONGEST_PAUSE_SECONDS for pause in pauses[3:])


def test_ids_are_used_once() -> None:
    surroundings = context()
    assert len({surroundings.fresh_id() for _ in range(1000)}) == 1000
