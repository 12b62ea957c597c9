"""A guard that dies or hangs is replaced, and its successor knows everything before anything else happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from etcdlock.agent.kept_guard import KeptGuard, watchdog_was_left
from etcdlock.errors import GuardLost
from etcdlock.escalation import KILLED, Action, Charge
from etcdlock.ports import Clock, Guest
from etcdlock.testing import FakeClock, run_virtual
from etcdlock.testing.guests import FakeGuard, FakeGuests

STOP_AFTER = 18.0


class Recorded(FakeGuard):
    """A guard that says what it was told, in order; each word takes it a second. One that hangs answers nothing."""

    def __init__(self, clock: Clock, /) -> None:
        super().__init__(clock, stop_after_seconds=STOP_AFTER)
        self._slow = clock
        self.told: list[str] = []
        self.hangs = False
        self.reason = ""
        self.was_killed = False

    async def arm(self, guest: Guest, /, *, session: str, charge: Charge = KILLED) -> None:
        await self._hear(f"arm {guest.pid} {session}")
        await super().arm(guest, session=session, charge=charge)

    async def hold(self, guest: Guest, /, *, session: str, charge: Charge) -> None:
        await self._hear(f"hold {guest.pid} {session}")
        await super().hold(guest, session=session, charge=charge)

    async def prove(self, session: str, /, *, at: float) -> None:
        await self._hear(f"prove {session} {at:g}")
        await super().prove(session, at=at)

    async def disarm(self, guest: Guest, /) -> None:
        await self._hear(f"disarm {guest.pid}")
        await super().disarm(guest)

    async def watch(self) -> str:
        await self._hear("watch")
        return self.reason or await super().watch()

    def kill(self) -> None:
        self.was_killed = True
        super().kill()

    async def _hear(self, word: str) -> None:
        self.told.append(word)
        await self._slow.sleep(1.0)
        if self.hangs:
            raise GuardLost("the guard does not answer")


class Scene:
    """A kept guard and all the guards there ever were."""

    def __init__(self, *, waits: bool) -> None:
        self.clock = FakeClock()
        self.guards: list[Recorded] = []
        self.prepare: Callable[[Recorded], None] = lambda _: None
        self.guests = FakeGuests()
        self.missed: list[str] = []
        self.kept = KeptGuard(self._new(), start=self.start, waits=waits, no_watchdog=self.missed.append)
        self.keeping: asyncio.Future[Any] = asyncio.ensure_future(self.kept.keep())

    def _new(self) -> Recorded:
        self.guards.append(Recorded(self.clock))
        return self.guards[-1]

    async def start(self) -> Recorded:
        await self.clock.sleep(1.0)
        guard = self._new()
        self.prepare(guard)
        return guard

    @property
    def first(self) -> Recorded:
        return self.guards[0]

    @property
    def successor(self) -> Recorded:
        assert len(self.guards) == 2
        return self.guards[1]

    async def guest(self, session: str, *, charge: Charge = KILLED) -> Guest:
        guest = await self.guests.start(["vm"], environment={})
        await self.kept.arm(guest, session=session, charge=charge)
        return guest

    async def settled(self) -> None:
        await self.clock.sleep(10.0)


@asynccontextmanager
async def scene(*, waits: bool = False) -> AsyncIterator[Scene]:
    on = Scene(waits=waits)
    try:
        yield on
    finally:
        on.keeping.cancel()
        with suppress(asyncio.CancelledError, GuardLost):
            await on.keeping
        for guard in on.guards:
            guard.kill()


def scenario(program: Callable[[Scene], Coroutine[Any, Any, None]], *, waits: bool = False) -> None:
    async def on_a_scene() -> None:
        async with scene(waits=waits) as on:
            await program(on)

    run_virtual(on_a_scene)


def test_the_successor_of_a_dead_guard_knows_every_proof_and_every_guest_before_anything_else() -> None:
    async def program(on: Scene) -> None:
        await on.kept.prove("a", at=0.0)
        await on.kept.prove("b", at=1.0)
        await on.kept.prove("a", at=2.0)
        await on.guest("a")
        await on.guest("b")
        on.first.kill()
        await asyncio.sleep(0)
        await on.kept.prove("b", at=3.0)
        assert on.successor.told[:2] == ["prove a 2", "prove b 3"]
        assert on.successor.told[2:4] == ["arm 1000 a", "arm 1001 b"]
        assert "prove b 3" in on.successor.told[4:]
        assert on.successor.armed == {1000, 1001}

    scenario(program)


def test_a_guard_that_dies_while_nobody_speaks_to_it_is_replaced_at_once() -> None:
    async def program(on: Scene) -> None:
        await on.kept.prove("a", at=0.0)
        await on.guest("a")
        on.first.kill()
        await on.clock.sleep(4.0)
        assert on.successor.armed == {1000}

    scenario(program)


def test_a_guard_that_hangs_is_killed_before_its_successor_is_started_and_what_was_said_is_said_again() -> None:
    async def program(on: Scene) -> None:
        await on.kept.prove("a", at=0.0)
        on.first.hangs = True
        on.prepare = lambda _: alive.append(not on.first.was_killed)
        await on.guest("a")
        assert alive == [False]
        assert on.successor.told[:2] == ["prove a 0", "arm 1000 a"]

    alive: list[bool] = []
    scenario(program)


def test_what_changes_while_the_successor_is_told_does_not_get_lost() -> None:
    async def program(on: Scene) -> None:
        await on.kept.prove("a", at=0.0)
        moves, leaves = await on.guest("a"), await on.guest("a")
        on.first.kill()
        await on.clock.sleep(1.5)
        assert on.successor.told == ["prove a 0"]
        proofs = asyncio.gather(on.kept.prove("new", at=4.0), on.kept.prove("a", at=4.0))
        await on.clock.sleep(1.0)
        assert on.successor.told == ["prove a 0", f"arm {moves.pid} a"]
        await asyncio.gather(proofs, on.kept.disarm(leaves))
        await on.kept.arm(moves, session="new")
        assert on.successor.armed == {moves.pid}
        assert f"arm {leaves.pid} a" not in on.successor.told
        assert {"prove new 4", "prove a 4"} <= set(on.successor.told)
        assert on.successor.told[-1] == f"arm {moves.pid} new"

    scenario(program)


def test_a_guest_whose_time_is_up_is_killed_and_the_others_are_armed_all_the_same() -> None:
    async def program(on: Scene) -> None:
        await on.kept.prove("old", at=0.0)
        late = await on.guest("old")
        await on.clock.sleep(STOP_AFTER - 4.0)
        await on.kept.prove("new", at=on.clock.now())
        await on.guest("new")
        on.first.kill()
        await on.settled()
        assert on.successor.armed == {1001}
        assert [guest.pid for guest in on.guests.started if guest.killed_at is not None] == [late.pid]

    scenario(program)


def test_what_a_dead_guard_had_frozen_is_held_by_its_successor_though_the_session_is_proven_again() -> None:
    async def program(on: Scene) -> None:
        await on.kept.prove("a", at=0.0)
        guest = await on.guest("a", charge=Charge(Action.FREEZE))
        await on.clock.sleep(STOP_AFTER + 1.0)
        assert on.kept.frozen == {(guest.pid, guest.pid_start)}
        await on.kept.prove("a", at=on.clock.now())
        on.first.kill()
        await on.settled()
        assert f"hold {guest.pid} a" in on.successor.told
        assert f"arm {guest.pid} a" not in on.successor.told
        assert on.kept.frozen == {(guest.pid, guest.pid_start)}
        await on.kept.arm(guest, session="a", charge=Charge(Action.FREEZE))
        await on.kept.go_on(guest)
        assert on.kept.frozen == frozenset()

    scenario(program)


def test_where_no_guard_can_be_started_the_program_hears_of_it() -> None:
    def refuse(_guard: Recorded) -> None:
        raise GuardLost("no more processes")

    async def program(on: Scene) -> None:
        on.prepare = refuse
        await on.kept.prove("a", at=0.0)
        on.first.kill()
        await on.settled()
        assert isinstance(on.keeping.exception(), GuardLost)
        with pytest.raises(GuardLost):
            await on.kept.prove("a", at=1.0)

    scenario(program)


def test_a_successor_that_fails_while_it_is_told_is_not_left_behind_half_knowing() -> None:
    def hang(guard: Recorded) -> None:
        guard.hangs = True

    async def program(on: Scene) -> None:
        on.prepare = hang
        await on.kept.prove("a", at=0.0)
        await on.guest("a")
        on.first.kill()
        await on.settled()
        assert isinstance(on.keeping.exception(), GuardLost)
        assert on.successor.was_killed

    scenario(program)


def test_a_guard_that_waits_is_told_to_watch_once_and_only_when_all_guests_are_known() -> None:
    async def program(on: Scene) -> None:
        await on.kept.prove("a", at=0.0)
        await on.guest("a")
        await on.kept.knows_all()
        await on.kept.knows_all()
        assert on.first.told == ["prove a 0", "arm 1000 a", "watch"]

    scenario(program, waits=True)


def test_one_that_dies_before_it_is_told_has_a_successor_that_is_told_when_it_knows_the_guests() -> None:
    async def program(on: Scene) -> None:
        await on.kept.prove("a", at=0.0)
        await on.guest("a")
        on.first.kill()
        await on.settled()
        assert on.successor.told == ["prove a 0", "arm 1000 a"]
        await on.kept.knows_all()
        assert on.successor.told == ["prove a 0", "arm 1000 a", "watch"]

    scenario(program, waits=True)


def test_a_successor_is_let_have_the_watchdog_once_it_knows_the_guests_whoever_has_replaced_the_dead_one() -> None:
    async def program(on: Scene) -> None:
        on.prepare = mislay
        await on.kept.prove("a", at=0.0)
        await on.guest("a")
        on.first.kill()
        await on.kept.prove("a", at=1.0)
        await on.settled()
        assert on.successor.told[:2] == ["prove a 1", "arm 1000 a"]
        assert on.successor.told.count("watch") == 1
        assert on.missed == ["/dev/watchdog: gone"]

    def mislay(guard: Recorded) -> None:
        guard.reason = "/dev/watchdog: gone"

    scenario(program)


def test_why_there_is_no_watchdog_is_passed_on() -> None:
    async def program(on: Scene) -> None:
        on.first.reason = "/dev/watchdog: no such file"
        await on.kept.knows_all()
        assert on.missed == ["/dev/watchdog: no such file"]

    scenario(program, waits=True)


@pytest.mark.parametrize(
    ("earlier", "was_left"),
    [
        ([], False),
        ([(True, True)], False),
        ([(False, True), (True, True)], False),
        ([(False, True)], True),
        ([(False, True), (True, False)], True),
        ([(False, False)], True),
    ],
)
def test_a_watchdog_was_left_where_there_was_one_and_no_guard_that_has_it_lives(
    earlier: list[tuple[bool, bool]], was_left: bool
) -> None:
    assert watchdog_was_left(earlier) == was_left


def test_a_guard_that_is_gone_at_the_end_is_no_failure() -> None:
    class Gone(Recorded):
        async def close(self) -> None:
            raise GuardLost("the guard is gone")

    async def program() -> None:
        kept = KeptGuard(Gone(FakeClock()), start=unused)
        await kept.close()

    async def unused() -> Recorded:
        raise AssertionError

    run_virtual(program)
