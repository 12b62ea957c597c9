"""Tells which guests would have been stopped at their deadline; in the enforcer's place where nothing is enforced.

Guaranteed: by the same deadline and the same refusals to arm (`escalation`), but nothing is done to any guest: what is
armed here stays armed, and is told of once for each time that its session could not be proven.

Which clock: `ports.Clock`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from etcdlock.agent.pausing import pause
from etcdlock.errors import SessionLost
from etcdlock.escalation import KILLED, Charge
from etcdlock.ports import Clock, Guard, Guest, GuestName
from etcdlock.timing import Timing

NOT_PROVEN = "session not proven"


@dataclass(frozen=True, slots=True)
class _Seen:
    session: str
    charge: Charge
    told: bool = False


class Witness(Guard):
    """`keep` must run; `told` hears of each guest whose time is up, why, and what would have been done first."""

    def __init__(self, clock: Clock, /, *, timing: Timing, told: Callable[[GuestName, str, Charge], None]) -> None:
        self._clock = clock
        self._timing = timing
        self._told = told
        self._proven: dict[str, float] = {}
        self._armed: dict[GuestName, _Seen] = {}
        self._changed = asyncio.Event()

    @property
    def frozen(self) -> frozenset[GuestName]:
        """None ever is."""
        return frozenset()

    def stopped(self, _guest: Guest, /) -> bool:
        """None ever is."""
        return False

    def overdue(self, _guest: Guest, /) -> bool:
        """Nothing follows from it."""
        return False

    async def arm(self, guest: Guest, /, *, session: str, charge: Charge = KILLED) -> None:
        """Watch it. Raises `SessionLost` where an enforcer would."""
        if session not in self._proven or self._clock.now() >= self._stop_at(session):
            raise SessionLost(f"session {session} is not proven: no guest would run under it")
        self._armed[_name(guest)] = _Seen(session, charge)
        self._changed.set()

    async def go_on(self, guest: Guest, /) -> None:
        """It has never stood."""

    async def prove(self, session: str, /, *, at: float) -> None:
        """From now on a later instant is told of anew."""
        needed = {session, *(seen.session for seen in self._armed.values())}
        self._proven = {name: instant for name, instant in self._proven.items() if name in needed}
        self._proven[session] = max(at, self._proven.get(session, at))
        for name, seen in self._armed.items():
            if seen.told and self._clock.now() < self._stop_at(seen.session):
                self._armed[name] = replace(seen, told=False)
        self._changed.set()

    async def disarm(self, guest: Guest, /) -> None:
        """It is gone."""
        self._armed.pop(_name(guest), None)
        self._changed.set()

    async def close(self) -> None:
        """Nothing to end."""

    async def keep(self) -> NoReturn:
        """Tell of what is due, for ever."""
        while True:
            self._changed.clear()
            now = self._clock.now()
            for name, seen in self._armed.items():
                if not seen.told and now >= self._stop_at(seen.session):
                    self._armed[name] = replace(seen, told=True)
                    self._told(name, NOT_PROVEN, seen.charge)
            await self._until_next()

    def _stop_at(self, session: str) -> float:
        return self._proven[session] + self._timing.stop_after_seconds

    async def _until_next(self) -> None:
        due = [self._stop_at(seen.session) for seen in self._armed.values() if not seen.told]
        left = max(min(due, default=1e9) - self._clock.now(), 0.0)
        await pause(self._clock, left, unless=self._changed)


def _name(guest: Guest) -> GuestName:
    return guest.pid, guest.pid_start
