"""Stops guests at their deadline from within this program, on `ports.Clock`.

Guaranteed: while this program runs, every armed guest is killed, or frozen, at the `stop_at` of the session it is armed
under. Not guaranteed: anything while this program hangs or is dead; for that there is the guard, a process of its own.
Both go by the same rule (`escalation`), so that they cannot disagree. A guest's command is run by the guard process
alone; here it has its time, and is not watched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from etcdlock.agent.parting import until_gone
from etcdlock.agent.pausing import pause
from etcdlock.errors import SessionLost
from etcdlock.escalation import KILLED, Action, Charge, Deadline, Sight, Stage, Step, after, may_be_armed, step
from etcdlock.journal import note
from etcdlock.ports import Clock, ExitStatus, Guard, Guest, GuestName
from etcdlock.timing import Timing

STRIKE_EVERY_SECONDS = 0.1
LOOK_AT_FROZEN_EVERY_SECONDS = 0.5


@dataclass(slots=True)
class _Armed:
    guest: Guest
    session: str
    charge: Charge = KILLED
    stage: Stage = Stage.RUNNING
    deadline: Deadline | None = None
    """The one that had passed when something was first done."""
    ending: asyncio.Future[ExitStatus] | None = None
    """Since then: done once it is gone."""
    stuck: bool = False

    @property
    def gone(self) -> bool:
        return self.ending is not None and self.ending.done()

    def stands(self, *, is_late: bool) -> bool:
        """Seen to. Where this program was held up, the guard may have seen to it: two looks at once tell that."""
        if self.stage in (Stage.FREEZING, Stage.FROZEN):
            return self.guest.stands()
        if not is_late or self.stage is not Stage.RUNNING or self.charge.action is not Action.FREEZE:
            return False
        return [self.guest.stands() for _ in range(2)][-1]


class Enforcer(Guard):
    """The guard's rule in this process. `keep` must run beside whatever starts guests."""

    def __init__(self, clock: Clock, /, *, timing: Timing) -> None:
        self._clock = clock
        self._timing = timing
        self._proven: dict[str, float] = {}
        self._deadlines: dict[str, Deadline] = {}
        self._armed: dict[GuestName, _Armed] = {}
        # The same, told apart so that a proof costs no more for a thousand guests than for one:
        self._running: dict[str, dict[GuestName, _Armed]] = {}  # by session, those about which nothing was done
        self._acted: dict[GuestName, _Armed] = {}
        self._frozen: set[GuestName] = set()
        self._changed = asyncio.Event()

    @property
    def frozen(self) -> frozenset[GuestName]:
        """The guests that were told to stand, and not to go on since."""
        return frozenset(self._frozen)

    def stopped(self, guest: Guest, /) -> bool:
        """Whether this guest was killed because its session could not be proven any more."""
        armed = self._armed.get(_name(guest))
        return armed is not None and armed.stage is Stage.STOPPING

    def overdue(self, guest: Guest, /) -> bool:
        """Whether the guest's deadline has passed, whoever acted on it."""
        armed = self._armed.get(_name(guest))
        return armed is not None and self._clock.now() >= self._deadline(armed).stop_at_seconds

    async def arm(self, guest: Guest, /, *, session: str, charge: Charge = KILLED) -> None:
        """Take a guest in, or move it to the session that it has been carried over into."""
        armed = self._armed.get(_name(guest))
        if armed is not None and not may_be_armed(armed.stage):
            raise SessionLost(f"guest {guest.pid} is being stopped")
        if session not in self._proven:
            raise SessionLost(f"session {session} was never proven: no guest runs under it")
        if self._clock.now() >= self._deadline_of(session).stop_at_seconds:
            raise SessionLost(f"session {session} is not proven any more: no guest runs under it")
        _forget_ending(self._take_out(guest))
        self._put(_Armed(guest, session, charge))
        self._changed.set()

    async def go_on(self, guest: Guest, /) -> None:
        """Let it run, if it was armed anew and is in time."""
        armed = self._armed.get(_name(guest))
        if armed is None or armed.stage is not Stage.RUNNING or self.overdue(guest):
            raise SessionLost(f"guest {guest.pid} may not go on: it is not armed in time")
        guest.go_on()
        self._frozen.discard(_name(guest))

    async def prove(self, session: str, /, *, at: float) -> None:
        """Move the deadline of everything under the session that runs."""
        needed = {session, *self._running, *(armed.session for armed in self._acted.values())}
        self._proven = {name: instant for name, instant in self._proven.items() if name in needed}
        self._proven[session] = max(at, self._proven.get(session, at))
        self._deadlines = {name: self._deadline_after(instant) for name, instant in self._proven.items()}
        self._changed.set()

    async def disarm(self, guest: Guest, /) -> None:
        """Forget a guest that is gone."""
        _forget_ending(self._take_out(guest))
        self._frozen.discard(_name(guest))
        self._changed.set()

    async def close(self) -> None:
        """Nothing to end."""

    async def keep(self) -> NoReturn:
        """Stop what is due, for ever."""
        while True:
            self._changed.clear()
            acted = [self._has_acted(armed) for armed in self._not_in_time()]
            if all(acted):
                await self._until_next()
            else:
                await self._clock.sleep(STRIKE_EVERY_SECONDS)

    def _has_acted(self, armed: _Armed) -> bool:
        try:
            self._act(armed)
        except (OSError, MemoryError) as error:  # what the host refuses for the moment is tried again
            note("not_acted_on", level=logging.ERROR, pid=armed.guest.pid, session=armed.session, error=error)
            return False
        return True

    def _put(self, armed: _Armed) -> None:
        name = _name(armed.guest)
        self._armed[name] = armed
        where = self._running.setdefault(armed.session, {}) if armed.stage is Stage.RUNNING else self._acted
        where[name] = armed

    def _take_out(self, guest: Guest) -> _Armed | None:
        armed = self._armed.pop(_name(guest), None)
        if armed is None or self._acted.pop(_name(guest), None) is not None:
            return armed
        others = self._running[armed.session]
        del others[_name(guest)]
        if not others:
            del self._running[armed.session]
        return armed

    def _not_in_time(self) -> list[_Armed]:
        """All but those that run and may: what `step` says of these is not asked for each. Whoever is late by the time
        that we are through is looked at next.
        """
        now = self._clock.now()
        late = (guests for session, guests in self._running.items() if now >= self._deadlines[session].stop_at_seconds)
        return [*(armed for guests in late for armed in guests.values()), *self._acted.values()]

    def _deadline(self, armed: _Armed) -> Deadline:
        return armed.deadline or self._deadline_of(armed.session)

    def _deadline_of(self, session: str) -> Deadline:
        return self._deadlines[session]

    def _deadline_after(self, proven_at: float) -> Deadline:
        stop_at = proven_at + self._timing.stop_after_seconds
        kill_seconds = self._timing.kill_seconds + self._timing.guard_lag_seconds
        return Deadline(stop_at, stop_at + self._timing.act_seconds, stop_at + kill_seconds)

    def _act(self, armed: _Armed) -> None:
        deadline, before = self._deadline(armed), armed.stage
        now = self._clock.now()
        stands = armed.stands(is_late=now >= deadline.stop_at_seconds)
        sight = Sight(alive=not armed.gone, stands=stands, commanding=True)
        taken = step(now, deadline=deadline, action=armed.charge.action, stage=before, sight=sight)
        if taken is Step.NONE:
            return
        if taken in (Step.KILL, Step.REPORT_STUCK):
            armed.guest.kill()      # before anything is logged: that may have to wait
        elif taken is Step.FREEZE:
            armed.guest.freeze()
        if taken in (Step.FREEZE, Step.HOLD):
            self._frozen.add(_name(armed.guest))
        self._take_out(armed.guest)
        armed.stage, armed.deadline = after(taken, stage=before), deadline
        self._put(armed)
        armed.ending = armed.ending or asyncio.ensure_future(until_gone(armed.guest, self._clock))
        self._tell(armed, taken, is_first=armed.stage is not before)

    def _tell(self, armed: _Armed, taken: Step, *, is_first: bool) -> None:
        who = {"pid": armed.guest.pid, "session": armed.session}
        if is_first and armed.stage is not Stage.FREEZING:
            note(_EVENTS[armed.stage], level=logging.ERROR, **who)
        if taken is Step.REPORT_STUCK and not armed.stuck:
            armed.stuck = True
            note("guest_stuck", level=logging.CRITICAL, **who)

    async def _until_next(self) -> None:
        """Sleep until something is due or changes; what is being stopped is struck again and again."""
        await pause(self._clock, min(self._waits(), default=3600.0), unless=self._changed)

    def _waits(self) -> Iterator[float]:
        """How long each session with guests that run has, and until the others are looked at again."""
        now = self._clock.now()
        for session in self._running:
            yield max(self._deadlines[session].stop_at_seconds - now, 0.0)
        for stage in {armed.stage for armed in self._acted.values() if not armed.gone}:
            yield LOOK_AT_FROZEN_EVERY_SECONDS if stage is Stage.FROZEN else STRIKE_EVERY_SECONDS


_EVENTS = {
    Stage.FROZEN: "guest_frozen",
    Stage.COMMANDED: "guest_command_due",
    Stage.STOPPING: "guest_stopped",
}


def _forget_ending(armed: _Armed | None) -> None:
    if armed is not None and armed.ending is not None:
        armed.ending.cancel()


def _name(guest: Guest) -> GuestName:
    return guest.pid, guest.pid_start


class Together(Guard):
    """Several guards as one: what one of them refuses is refused."""

    def __init__(self, *guards: Guard) -> None:
        self._guards = guards

    @property
    def frozen(self) -> frozenset[GuestName]:
        """Those that any of them holds."""
        return frozenset[GuestName]().union(*(guard.frozen for guard in self._guards))

    async def arm(self, guest: Guest, /, *, session: str, charge: Charge = KILLED) -> None:
        """Arm in each."""
        for guard in self._guards:
            await guard.arm(guest, session=session, charge=charge)

    async def go_on(self, guest: Guest, /) -> None:
        """Tell each, the one that knows most of its processes last."""
        for guard in self._guards:
            await guard.go_on(guest)

    async def prove(self, session: str, /, *, at: float) -> None:
        """Prove to each."""
        for guard in self._guards:
            await guard.prove(session, at=at)

    async def disarm(self, guest: Guest, /) -> None:
        """Disarm in each."""
        for guard in self._guards:
            await guard.disarm(guest)

    async def close(self) -> None:
        """End each."""
        for guard in self._guards:
            await guard.close()
