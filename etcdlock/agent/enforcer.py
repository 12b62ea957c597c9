"""Stops guests at their deadline from within this program, on `ports.Clock`.

Guaranteed: while this program runs, every armed guest is killed at the `stop_at` of the session it is armed under.
Not guaranteed: anything while this program hangs or is dead; for that there is the guard, a process of its own. Both go
by the same rule (`escalation`), so that they cannot disagree.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import NoReturn

from etcdlock.errors import SessionLost
from etcdlock.escalation import Deadline, Step, step
from etcdlock.journal import note
from etcdlock.ports import Clock, ExitStatus, Guard, Guest
from etcdlock.timing import Timing

STRIKE_EVERY_SECONDS = 0.1


@dataclass(slots=True)
class _Armed:
    guest: Guest
    session: str
    ending: asyncio.Future[ExitStatus] | None = None
    """Since it was first struck: done once it is gone."""
    stuck: bool = False

    @property
    def stopped(self) -> bool:
        return self.ending is not None

    @property
    def gone(self) -> bool:
        return self.ending is not None and self.ending.done()


class Enforcer(Guard):
    """The guard's rule in this process. `keep` must run beside whatever starts guests."""

    def __init__(self, clock: Clock, /, *, timing: Timing) -> None:
        self._clock = clock
        self._timing = timing
        self._proven: dict[str, float] = {}
        self._armed: dict[tuple[int, int], _Armed] = {}
        self._changed = asyncio.Event()

    def stopped(self, guest: Guest, /) -> bool:
        """Whether this guest was killed because its session could not be proven any more."""
        armed = self._armed.get(_name(guest))
        return armed is not None and armed.stopped

    def overdue(self, guest: Guest, /) -> bool:
        """Whether the guest's deadline has passed, whoever acted on it."""
        armed = self._armed.get(_name(guest))
        return armed is not None and self._clock.now() >= self._deadline(armed.session).stop_at_seconds

    async def arm(self, guest: Guest, /, *, session: str) -> None:
        """Take a guest in, or move it to the session that it has been carried over into."""
        armed = self._armed.get(_name(guest))
        if armed is not None and armed.stopped:
            raise SessionLost(f"guest {guest.pid} is being stopped")
        if session not in self._proven:
            raise SessionLost(f"session {session} was never proven: no guest runs under it")
        if self._clock.now() >= self._deadline(session).stop_at_seconds:
            raise SessionLost(f"session {session} is not proven any more: no guest runs under it")
        self._armed[_name(guest)] = _Armed(guest, session)
        self._changed.set()

    async def prove(self, session: str, /, *, at: float) -> None:
        """Move the deadline of everything under the session."""
        needed = {session, *(armed.session for armed in self._armed.values())}
        self._proven = {name: instant for name, instant in self._proven.items() if name in needed}
        self._proven[session] = max(at, self._proven.get(session, at))
        self._changed.set()

    async def disarm(self, guest: Guest, /) -> None:
        """Forget a guest that is gone, or that rests."""
        armed = self._armed.pop(_name(guest), None)
        if armed is not None and armed.ending is not None:
            armed.ending.cancel()
        self._changed.set()

    async def close(self) -> None:
        """Nothing to end."""

    async def keep(self) -> NoReturn:
        """Stop what is due, for ever."""
        while True:
            self._changed.clear()
            for armed in list(self._armed.values()):
                self._act(armed)
            await self._until_next()

    def _deadline(self, session: str) -> Deadline:
        proven_at = self._proven[session]
        return Deadline(
            stop_at_seconds=proven_at + self._timing.stop_after_seconds,
            stuck_at_seconds=proven_at + self._timing.budget_seconds,
        )

    def _act(self, armed: _Armed) -> None:
        rung = step(self._clock.now(), deadline=self._deadline(armed.session), alive=not armed.gone)
        if armed.gone or (rung is Step.NONE and not armed.stopped):
            return
        armed.guest.kill()      # before anything is logged: that may have to wait
        if not armed.stopped:
            armed.ending = asyncio.ensure_future(armed.guest.gone())
            note("guest_stopped", level=logging.ERROR, pid=armed.guest.pid, session=armed.session)
        if rung is Step.REPORT_STUCK and not armed.stuck:
            armed.stuck = True
            note("guest_stuck", level=logging.CRITICAL, pid=armed.guest.pid, session=armed.session)

    async def _until_next(self) -> None:
        """Sleep until something is due or changes; what is being stopped is struck again and again."""
        now = self._clock.now()
        due = (
            STRIKE_EVERY_SECONDS if armed.stopped else max(self._deadline(armed.session).stop_at_seconds - now, 0.0)
            for armed in self._armed.values()
            if not armed.gone
        )
        sleeping = asyncio.ensure_future(self._clock.sleep(min(due, default=3600.0)))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((sleeping, changed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            changed.cancel()


def _name(guest: Guest) -> tuple[int, int]:
    return guest.pid, guest.pid_start


class Together(Guard):
    """Several guards as one: what one of them refuses is refused."""

    def __init__(self, *guards: Guard) -> None:
        self._guards = guards

    async def arm(self, guest: Guest, /, *, session: str) -> None:
        """Arm in each."""
        for guard in self._guards:
            await guard.arm(guest, session=session)

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
