"""What stops guests from within the program: at their deadline, not before it, and until they are gone."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest

from etcdlock.agent.enforcer import STRIKE_EVERY_SECONDS, Enforcer, Together
from etcdlock.errors import GuardLost, SessionLost
from etcdlock.escalation import Action, Charge
from etcdlock.testing import FakeClock, run_virtual
from etcdlock.testing.guests import FakeGuard, FakeGuest
from etcdlock.timing import Timing

TIMING = Timing()
STOP_AFTER = TIMING.stop_after_seconds
NEVER_EARLIER = pytest.approx(0.0, abs=1e-6)


class Struck(FakeGuest):
    """A guest that remembers each strike."""

    def __init__(self, pid: int = 1000) -> None:
        super().__init__(["vm"], environment={}, pid=pid, life_seconds=None, death_seconds=0.0)
        self.strikes: list[float] = []

    def kill(self) -> None:
        self.strikes.append(asyncio.get_running_loop().time())
        super().kill()


class Counting(FakeClock):
    """Counts how often it is looked at, which a real clock charges for."""

    looks = 0

    def now(self) -> float:
        self.looks += 1
        return super().now()


@asynccontextmanager
async def enforcing(clock: FakeClock) -> AsyncIterator[Enforcer]:
    enforcer = Enforcer(clock, timing=TIMING)
    keeping = asyncio.ensure_future(enforcer.keep())
    try:
        yield enforcer
    finally:
        assert not keeping.done(), "it must never end by itself"
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping


def scenario(program: Callable[[Enforcer, FakeClock], Coroutine[Any, Any, None]]) -> None:
    async def on_a_clock() -> None:
        clock = FakeClock()
        async with enforcing(clock) as enforcer:
            await program(enforcer, clock)

    run_virtual(on_a_clock)


async def armed(
    enforcer: Enforcer, guest: Struck, *, session: str = "s", at: float = 0.0, action: Action = Action.KILL
) -> Struck:
    await enforcer.prove(session, at=at)
    await enforcer.arm(guest, session=session, charge=Charge(action))
    return guest


def test_every_guest_is_killed_at_its_deadline_and_not_before() -> None:
    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        one, other = await armed(enforcer, Struck(1)), await armed(enforcer, Struck(2))
        later = await armed(enforcer, Struck(3), session="t", at=2.0)
        await clock.sleep(STOP_AFTER + 5)
        for guest, deadline in ((one, STOP_AFTER), (other, STOP_AFTER), (later, STOP_AFTER + 2)):
            assert guest.strikes[0] - deadline == NEVER_EARLIER
            assert guest.strikes[0] >= deadline
            assert enforcer.stopped(guest)

    scenario(program)


def test_each_proof_moves_the_deadline_and_an_older_one_does_not_move_it_back() -> None:
    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        guest = await armed(enforcer, Struck())
        for _ in range(20):
            await clock.sleep(STOP_AFTER - 0.5)
            await enforcer.prove("s", at=clock.now())
        last = clock.now()
        await enforcer.prove("s", at=0.0)
        await clock.sleep(STOP_AFTER + 1)
        assert guest.strikes[0] - (last + STOP_AFTER) == NEVER_EARLIER

    scenario(program)


def test_a_proof_counts_from_when_its_heartbeat_was_sent() -> None:
    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        guest = await armed(enforcer, Struck())
        await clock.sleep(10)
        await enforcer.prove("s", at=4.0)
        await clock.sleep(STOP_AFTER)
        assert guest.strikes[0] - (STOP_AFTER + 4) == NEVER_EARLIER

    scenario(program)


def test_a_host_that_slept_past_the_deadline_strikes_when_it_wakes() -> None:
    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        guest = await armed(enforcer, Struck())
        await clock.sleep(1)
        clock.jump(3600)
        await clock.sleep(0.001)
        assert guest.strikes[0] - 1.0 == NEVER_EARLIER

    scenario(program)


def test_a_guest_that_will_not_die_is_struck_on_and_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        guest = Struck()
        guest.stuck = True
        await armed(enforcer, guest)
        await clock.sleep(TIMING.budget_seconds + 10)
        gaps = [after - before for before, after in pairwise(guest.strikes)]
        assert gaps == pytest.approx([STRIKE_EVERY_SECONDS] * len(gaps))
        assert guest.strikes[-1] > TIMING.budget_seconds + 9

    scenario(program)
    assert [record.getMessage() for record in caplog.records] == ["guest_stopped", "guest_stuck"]


def test_a_guest_that_is_gone_is_not_called_stuck_though_its_locks_cannot_be_given_back_yet(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        guest = await armed(enforcer, Struck())
        await clock.sleep(TIMING.budget_seconds + 60)
        assert len(guest.strikes) == 1
        assert enforcer.stopped(guest)

    scenario(program)
    assert [record.getMessage() for record in caplog.records] == ["guest_stopped"]


def test_a_log_that_blocks_comes_after_the_strike() -> None:
    class Blocked(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            strikes_when_logged.append(len(guests[0].strikes))

    guests: list[Struck] = []
    strikes_when_logged: list[int] = []

    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        guests.append(await armed(enforcer, Struck()))
        await clock.sleep(STOP_AFTER + 0.01)

    handler = Blocked()
    logging.getLogger("etcdlock").addHandler(handler)
    try:
        scenario(program)
    finally:
        logging.getLogger("etcdlock").removeHandler(handler)
    assert strikes_when_logged == [1]


def test_a_guest_that_is_being_stopped_is_saved_by_nothing() -> None:
    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        guest = Struck()
        guest.stuck = True
        await armed(enforcer, guest)
        await clock.sleep(STOP_AFTER + 0.01)
        await enforcer.prove("s", at=clock.now())
        with pytest.raises(SessionLost, match="being stopped"):
            await enforcer.arm(guest, session="s")
        struck = len(guest.strikes)
        await clock.sleep(1)
        assert len(guest.strikes) > struck

    scenario(program)


def test_the_proof_of_a_new_session_helps_a_guest_only_once_it_is_armed_there() -> None:
    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        left, moved = await armed(enforcer, Struck(1)), await armed(enforcer, Struck(2))
        await clock.sleep(10)
        await enforcer.prove("new", at=10.0)
        await enforcer.arm(moved, session="new")
        await clock.sleep(STOP_AFTER + 1)
        assert left.strikes[0] - STOP_AFTER == NEVER_EARLIER
        assert moved.strikes[0] - (STOP_AFTER + 10) == NEVER_EARLIER

    scenario(program)


def test_a_guest_that_is_armed_long_after_the_proof_is_watched_from_then_on() -> None:
    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        guest = Struck()
        await enforcer.prove("s", at=0.0)
        await clock.sleep(5)
        await enforcer.arm(guest, session="s")
        await clock.sleep(STOP_AFTER)
        assert guest.strikes[0] - STOP_AFTER == NEVER_EARLIER

    scenario(program)


def test_a_session_that_is_not_proven_takes_no_guest_in() -> None:
    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        guest = Struck()
        with pytest.raises(SessionLost, match="never proven"):
            await enforcer.arm(guest, session="s")
        await enforcer.prove("s", at=0.0)
        await clock.sleep(STOP_AFTER)
        with pytest.raises(SessionLost, match="not proven any more"):
            await enforcer.arm(guest, session="s")
        await clock.sleep(1)
        assert guest.strikes == []
        assert not enforcer.stopped(guest)

    scenario(program)


def test_a_refused_move_leaves_the_guest_to_its_old_deadline() -> None:
    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        guest = await armed(enforcer, Struck())
        with pytest.raises(SessionLost):
            await enforcer.arm(guest, session="never heard of")
        await clock.sleep(STOP_AFTER + 1)
        assert guest.strikes[0] - STOP_AFTER == NEVER_EARLIER

    scenario(program)


def test_a_disarmed_guest_is_left_alone_and_so_is_who_gets_its_pid() -> None:
    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        old, new = Struck(1), Struck(1)
        new.pid_start = old.pid_start + 1
        await armed(enforcer, old)
        await clock.sleep(5)
        await armed(enforcer, new, at=5.0)
        await enforcer.disarm(old)
        await clock.sleep(STOP_AFTER + 1)
        assert old.strikes == []
        assert new.strikes[0] - (STOP_AFTER + 5) == NEVER_EARLIER

    scenario(program)


def test_a_deadline_that_another_guard_acted_on_is_told_as_overdue() -> None:
    async def program() -> None:
        clock = FakeClock()
        enforcer = Enforcer(clock, timing=TIMING)       # not kept: as if this program hung
        guest = await armed(enforcer, Struck())
        assert not enforcer.overdue(guest)
        await clock.sleep(STOP_AFTER)
        assert enforcer.overdue(guest)
        assert not enforcer.stopped(guest)

    run_virtual(program)


def test_what_one_of_several_guards_refuses_is_refused() -> None:
    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        guard = FakeGuard(clock, stop_after_seconds=STOP_AFTER)
        together = Together(enforcer, guard)
        guest = Struck()
        await together.prove("s", at=0.0)
        await together.arm(guest, session="s")
        assert guard.armed == {guest.pid}
        guard.kill()
        with pytest.raises(GuardLost):
            await together.prove("s", at=1.0)

    scenario(program)


FROZEN_SOON = STOP_AFTER + 0.3


def test_a_frozen_guest_goes_on_only_armed_anew_and_in_time() -> None:
    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        guest = await armed(enforcer, Struck(), action=Action.FREEZE)
        await clock.sleep(FROZEN_SOON)
        assert guest.frozen
        assert enforcer.frozen == {(guest.pid, guest.pid_start)}
        await enforcer.prove("s", at=clock.now())
        with pytest.raises(SessionLost):
            await enforcer.go_on(guest)
        await enforcer.arm(guest, session="s", charge=Charge(Action.FREEZE))
        assert guest.frozen, "armed is not yet let go on"
        assert enforcer.frozen
        await enforcer.go_on(guest)
        assert (guest.frozen, enforcer.frozen, guest.strikes) == (False, frozenset(), [])
        await clock.sleep(FROZEN_SOON)
        assert guest.frozen
        with pytest.raises(SessionLost):
            await enforcer.go_on(guest)

    scenario(program)


def test_a_guest_armed_anew_that_was_let_go_on_too_late_stands_on() -> None:
    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        guest = Struck()
        await enforcer.prove("s", at=0.0)
        await enforcer.arm(guest, session="s", charge=Charge(Action.FREEZE))
        clock.jump(STOP_AFTER)
        with pytest.raises(SessionLost):
            await enforcer.go_on(guest)

    scenario(program)


def test_a_guest_that_does_not_stand_in_time_is_killed() -> None:
    class Restless(Struck):
        def stands(self) -> bool:
            return False

    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        guest = await armed(enforcer, Restless(), action=Action.FREEZE)
        await clock.sleep(STOP_AFTER + TIMING.kill_seconds)
        assert guest.strikes[0] - (STOP_AFTER + TIMING.act_seconds) == pytest.approx(0.0, abs=STRIKE_EVERY_SECONDS)

    scenario(program)


def test_a_command_has_its_time_here_too() -> None:
    async def program(enforcer: Enforcer, clock: FakeClock) -> None:
        guest = await armed(enforcer, Struck(), action=Action.COMMAND)
        await clock.sleep(STOP_AFTER + TIMING.kill_seconds)
        assert guest.strikes[0] - (STOP_AFTER + TIMING.act_seconds) == pytest.approx(0.0, abs=STRIKE_EVERY_SECONDS)
        with pytest.raises(SessionLost, match="being stopped"):
            await enforcer.arm(guest, session="s")

    scenario(program)


@pytest.mark.parametrize("count", [1, 200])
def test_a_proof_costs_no_more_for_many_guests_than_for_one(count: int) -> None:
    async def on_a_clock() -> None:
        clock = Counting()
        async with enforcing(clock) as enforcer:
            await enforcer.prove("s", at=0.0)
            for number in range(count):
                await enforcer.arm(Struck(1000 + number), session="s")
            await clock.sleep(1.0)
            before = clock.looks
            await enforcer.prove("s", at=1.0)
            await asyncio.sleep(0.01)
            assert 0 < clock.looks - before < 10

    run_virtual(on_a_clock)


class Unreachable(Struck):
    """One that cannot be struck the first two times, for want of descriptors."""

    def kill(self) -> None:
        if len(self.strikes) < 2:
            self.strikes.append(asyncio.get_running_loop().time())
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        super().kill()


def test_a_guest_that_cannot_be_struck_holds_up_no_other_and_is_struck_again() -> None:
    async def program() -> list[float | None]:
        clock, guests = FakeClock(), [Unreachable(1000), Struck(1001)]
        async with enforcing(clock) as enforcer:
            await enforcer.prove("s", at=0.0)
            for guest in guests:
                await enforcer.arm(guest, session="s")
            await clock.sleep(STOP_AFTER + 1.0)
            return [guest.gone_at for guest in guests]

    late, in_time = run_virtual(program)
    assert in_time == pytest.approx(STOP_AFTER)
    assert late == pytest.approx(STOP_AFTER + 2 * STRIKE_EVERY_SECONDS)
