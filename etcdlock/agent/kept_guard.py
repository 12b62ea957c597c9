"""A guard that is replaced when it dies or hangs; its successor is told everything before anything else happens.

Guaranteed: every proof and every armed guest is known to the guard that answers, or `GuardLost` is raised. Not
guaranteed: that a guard is there at every instant; in between, the enforcer of this very program goes by the same
deadlines.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import NoReturn, Protocol

from etcdlock.errors import GuardLost, SessionLost
from etcdlock.escalation import KILLED, Action, Charge
from etcdlock.journal import note
from etcdlock.ports import Guard, Guest, GuestName


class MortalGuard(Guard, Protocol):
    """A guard whose end can be waited for, and hastened where it hangs."""

    async def died(self) -> None:
        """Come back when it is no more."""
        ...

    def kill(self) -> None:
        """End it at once, whatever it guards."""
        ...

    async def hold(self, guest: Guest, /, *, session: str, charge: Charge) -> None:
        """Take in a guest that stands and must not run before it is armed anew."""
        ...

    async def watch(self) -> str:
        """Open the watchdog, if that has waited. Why it cannot be had, or nothing."""
        ...


def watchdog_was_left(earlier: Iterable[tuple[bool, bool]], /) -> bool:
    """Whether the host's watchdog may run on beside guests that no guard knows, for all that is known of the guards
    before: of each whether it lives, and whether it had the watchdog from its start. One that lives and has it knows
    them all.
    """
    guards = list(earlier)
    return bool(guards) and not any(lives and watches for lives, watches in guards)


def _heard(_reason: str, /) -> None:
    """None was wanted."""


class KeptGuard(Guard):
    """Passes everything on to the guard of the day. `keep` must run beside whatever starts guests.

    A successor that waits with the host's watchdog is let have it once it knows what the dead one knew, but while this
    `waits` not before it `knows_all`. Where it cannot be had, `no_watchdog` hears why.
    """

    def __init__(
        self,
        guard: MortalGuard,
        /,
        *,
        start: Callable[[], Awaitable[MortalGuard]],
        waits: bool = False,
        no_watchdog: Callable[[str], None] = _heard,
    ) -> None:
        self._guard = guard
        self._start = start
        self._no_watchdog = no_watchdog
        self._waits = waits     # guests that an earlier program has left may live unknown
        self._proven: dict[str, float] = {}
        self._armed: dict[GuestName, tuple[Guest, str, Charge]] = {}
        self._in_doubt: frozenset[GuestName] = frozenset()
        self._replacing = asyncio.Lock()

    async def keep(self) -> NoReturn:
        """Replace a guard as soon as it dies. Raises `GuardLost` if no other can be started, and what `no_watchdog`
        raises.
        """
        while True:
            guard = self._guard
            await guard.died()
            await self._replace(guard)
            if not self._waits:
                await self._let_watch()

    async def knows_all(self) -> None:
        """Every guest that an earlier program has left is armed here, or gone: a guard that waited may open the
        watchdog. Raises what `no_watchdog` raises.
        """
        if self._waits:
            self._waits = False
            await self._let_watch()

    async def _let_watch(self) -> None:
        reasons: list[str] = []

        async def watch(guard: MortalGuard) -> None:
            reasons.append(await guard.watch())

        await self._do(watch)
        if reasons[-1]:
            self._no_watchdog(reasons[-1])

    @property
    def frozen(self) -> frozenset[GuestName]:
        """Those of the guard of the day, and those that the one before may have frozen without having said so."""
        return self._guard.frozen | self._in_doubt

    async def arm(self, guest: Guest, /, *, session: str, charge: Charge = KILLED) -> None:
        """Arm, or move to another session."""
        await self._do(lambda guard: guard.arm(guest, session=session, charge=charge))
        self._armed[guest.pid, guest.pid_start] = (guest, session, charge)

    async def go_on(self, guest: Guest, /) -> None:
        """Pass it on; then nobody is in doubt about the guest any more."""
        await self._do(lambda guard: guard.go_on(guest))
        self._in_doubt -= {(guest.pid, guest.pid_start)}

    async def prove(self, session: str, /, *, at: float) -> None:
        """Remember the proof, then pass it on."""
        needed = {session, *(armed_under for _, armed_under, _ in self._armed.values())}
        self._proven = {name: instant for name, instant in self._proven.items() if name in needed}
        self._proven[session] = max(at, self._proven.get(session, at))
        await self._do(lambda guard: guard.prove(session, at=at))

    async def disarm(self, guest: Guest, /) -> None:
        """Forget the guest, then pass it on."""
        self._armed.pop((guest.pid, guest.pid_start), None)
        self._in_doubt -= {(guest.pid, guest.pid_start)}
        await self._do(lambda guard: guard.disarm(guest))

    async def close(self) -> None:
        """End the guard of the day; one that is gone already is no failure."""
        try:
            await self._guard.close()
        except GuardLost as error:
            note("guard_gone_at_the_end", level=logging.WARNING, error=error)

    async def _do(self, tell: Callable[[MortalGuard], Awaitable[None]]) -> None:
        guard = self._guard
        try:
            await tell(guard)
        except GuardLost:
            await self._replace(guard)
            await tell(self._guard)

    async def _replace(self, dead: MortalGuard) -> None:
        async with self._replacing:
            if self._guard is not dead:
                return
            dead.kill()
            successor = await self._start()
            try:
                await self._brief(successor, frozen=dead.frozen)
            except BaseException:
                successor.kill()
                raise
            self._guard = successor
        note("guard_replaced", level=logging.ERROR, armed=len(self._armed))

    async def _brief(self, successor: MortalGuard, *, frozen: frozenset[GuestName]) -> None:
        """Tell it all. What changes meanwhile is asked of the dead one, in vain, and then of its successor."""
        for session, at in list(self._proven.items()):
            await successor.prove(session, at=at)
        for name in list(self._armed):
            if name in self._armed:
                await self._hand_over(*self._armed[name], is_frozen=name in frozen, successor=successor)

    async def _hand_over(
        self, guest: Guest, session: str, charge: Charge, *, is_frozen: bool, successor: MortalGuard
    ) -> None:
        """One that was frozen stays so: that its session is proven again does not say whose its lock is."""
        if charge.action is Action.FREEZE:
            self._in_doubt |= {(guest.pid, guest.pid_start)}
        try:
            if is_frozen:
                await successor.hold(guest, session=session, charge=charge)
            else:
                await successor.arm(guest, session=session, charge=charge)
        except GuardLost:
            raise
        except SessionLost as refusal:
            await self._refused(guest, session, charge, refusal, successor=successor)

    async def _refused(
        self, guest: Guest, session: str, charge: Charge, refusal: SessionLost, *, successor: MortalGuard
    ) -> None:
        """Its time was up before there was a guard to see to it: what may be frozen is held, if it stands by now."""
        if charge.action is Action.FREEZE:
            await successor.hold(guest, session=session, charge=charge)
            return
        guest.kill()
        note("guest_stopped", level=logging.ERROR, pid=guest.pid, session=session, error=refusal)
        with suppress(SessionLost):     # then it knows of it
            await successor.hold(guest, session=session, charge=charge)  # while it does not die, no watchdog is fed
