"""`ports.Guard` over a socket to a guard process that is there for us alone.

The guard is started before anything is locked and outlives this process for as long as a guest is armed. Every call
waits for its answer for a bounded time; a guard that does not answer in that time is as good as none, and the caller
gets `GuardLost`: it must then start another or stop its guests itself. Nothing is repeated and nothing replaced here.

The guard says what became of the host's watchdog before it is told the limits, since they depend on it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

from etcdlock.adapters.guard_process import GuardProcess, connect, spawn
from etcdlock.errors import GuardLost, SessionLost
from etcdlock.escalation import KILLED, Charge
from etcdlock.guard import wire
from etcdlock.guard.rules import Limits
from etcdlock.guard.table import Name
from etcdlock.guard.watchdog import ABSENT, BUSY, OFF, OPEN
from etcdlock.guard.wire import Equipment
from etcdlock.journal import note
from etcdlock.ports import Guest, GuestName

_ANSWER_WITHIN_SECONDS = 1.0
_START_WITHIN_SECONDS = 10.0
_UNIT_STARTS_WITHIN_SECONDS = 5.0
_DEAD_WITHIN_SECONDS = 0.2
_MOST_UNREAD = 256
_GUESTS_AT_ONCE = 64
"""Of so many the guard is asked before it has answered. A socket takes some 250 packets, and a full one does not say
that the guard is dead: a new session or agent arms every guest of its host at the same moment."""


@dataclass(frozen=True, slots=True)
class WatchdogReport:
    """What a guard says of the watchdog at its start. `seconds` is its timeout, 0 where it is not open."""

    standing: str = OFF
    seconds: float = 0.0
    reason: str = ""

    @property
    def is_open(self) -> bool:
        """Whether the guard has it."""
        return self.standing == OPEN

    @property
    def is_absent(self) -> bool:
        """Whether there is none, or none that will do, where one was asked for."""
        return self.standing == ABSENT

    @property
    def is_busy(self) -> bool:
        """Whether another has it; the guard goes on asking for it."""
        return self.standing == BUSY


NO_EQUIPMENT = Equipment()


class GuardLink:
    """A running guard. Make it with `start`."""

    def __init__(self, link: socket.socket, process: GuardProcess) -> None:
        self._link = link
        self._process = process
        self._serial = 0
        self._answers: dict[str, asyncio.Future[str | None]] = {}
        self._guarded: set[GuestName] = set()
        self._frozen: set[GuestName] = set()
        self.watchdog = WatchdogReport()
        self._ready = asyncio.Event()
        self._died = asyncio.Event()
        self._turns = asyncio.Semaphore(_GUESTS_AT_ONCE)
        asyncio.get_running_loop().add_reader(link, self._on_readable)

    @classmethod
    async def start(
        cls, *, limits: Callable[[WatchdogReport], Limits], equipment: Equipment = NO_EQUIPMENT, unit: str = ""
    ) -> GuardLink:
        """Start a guard, and tell it the limits that follow from what became of the watchdog. Where systemd listens on
        `unit`, it is started there, and else as a child of ours. Raises `GuardLost` if it does not come up, and what
        `limits` raises.
        """
        link = await cls._begin_in_unit(unit, equipment) or await cls._begin(equipment)
        try:
            await link.keep_to(limits(link.watchdog))
        except BaseException:
            await link.close()      # in order: a watchdog that it has opened must stop
            raise
        return link

    @classmethod
    async def _begin(cls, equipment: Equipment) -> GuardLink:
        try:
            link = cls(*spawn())
        except OSError as error:
            raise GuardLost(f"the guard cannot be started, and without it nothing may run: {error}") from error
        if not await link._comes_up(equipment, within_seconds=_START_WITHIN_SECONDS):
            raise GuardLost("the guard did not start: without it nothing may run")
        return link

    @classmethod
    async def _begin_in_unit(cls, unit: str, equipment: Equipment) -> GuardLink | None:
        """A guard of one's own in the wrong cgroup is better than none: whatever fails here is only noted."""
        try:
            found = connect(unit) if unit else None
        except OSError as error:
            note("no_guard_in_its_unit", level=logging.WARNING, socket=unit, error=error)
            return None
        if found is None:
            return None
        link = cls(*found)
        if await link._comes_up(equipment, within_seconds=_UNIT_STARTS_WITHIN_SECONDS):
            return link
        note("no_guard_in_its_unit", level=logging.WARNING, socket=unit, error="it does not come up")
        return None

    async def _comes_up(self, equipment: Equipment, *, within_seconds: float) -> bool:
        """Whether it says so in time; if not, it is ended."""
        try:
            self._link.send(wire.pack(wire.EQUIP, 0, *wire.pack_equipment(equipment)))
            async with asyncio.timeout(within_seconds):
                await self._ready_or_dead()
        except (TimeoutError, OSError):
            self._died.set()
        if self._died.is_set():
            self.kill()
        return not self._died.is_set()

    async def keep_to(self, limits: Limits, /) -> None:
        """Tell it the limits; before that, no session counts as proven there."""
        await self._ask(wire.LIMITS, *wire.pack_limits(limits))

    @property
    def pid(self) -> int:
        """The guard's process; it is no guest's."""
        return self._process.pid

    @property
    def is_child(self) -> bool:
        """Whether it is a child of this program, in its cgroup, and not in a unit of its own."""
        return self._process.is_ours

    @property
    def frozen(self) -> frozenset[GuestName]:
        """The guests that it has told to stand, and has not been told since to let go on."""
        return frozenset(self._frozen)

    async def arm(self, guest: Guest, /, *, session: str, charge: Charge = KILLED) -> None:
        await self._entrust(wire.ARM, guest, session=session, charge=charge)

    async def hold(self, guest: Guest, /, *, session: str, charge: Charge) -> None:
        """Take in a guest that stands and must not run before it is armed anew; what does not stand is killed."""
        self._frozen.add((guest.pid, guest.pid_start))
        await self._entrust(wire.HOLD, guest, session=session, charge=charge)

    async def go_on(self, guest: Guest, /) -> None:
        async with self._turns:
            refusal = await self._ask(wire.GO_ON, f"{guest.pid}:{guest.pid_start}")
        if refusal is not None:
            raise SessionLost(f"guest {guest.pid}:{guest.pid_start} may not go on: {refusal}")
        self._frozen.discard((guest.pid, guest.pid_start))

    async def _entrust(self, verb: str, guest: Guest, *, session: str, charge: Charge) -> None:
        name = f"{guest.pid}:{guest.pid_start}"
        async with self._turns:
            if guest.pidfd < 0:
                return      # it is gone, and needs no guard
            self._guarded.add((guest.pid, guest.pid_start))
            refusal = await self._ask(verb, name, wire.pack_charge(session, charge), pidfd=guest.pidfd)
        if refusal is not None:
            raise SessionLost(f"guest {name} cannot be guarded under session {session}: {refusal}")

    async def prove(self, session: str, /, *, at: float) -> None:
        """At once: a proof waits for no guest's turn."""
        await self._ask(wire.PROVE, at, session)

    async def watch(self) -> str:
        """Have it open the watchdog, if that has waited. Why it cannot be had, or nothing."""
        await self._ask(wire.WATCH)
        return self.watchdog.reason if self.watchdog.is_absent else ""

    async def disarm(self, guest: Guest, /) -> None:
        async with self._turns:
            await self._ask(wire.DISARM, f"{guest.pid}:{guest.pid_start}")
        self._forget((guest.pid, guest.pid_start))

    def _forget(self, name: GuestName) -> None:
        self._guarded.discard(name)
        self._frozen.discard(name)

    async def close(self) -> None:
        """Let go. A guard that still has guests armed stays until they are gone, and though it does not answer: it may
        yet come to it. Else its end is waited for.
        """
        try:
            if not self._died.is_set():
                await self._ask(wire.CLOSE)
        except GuardLost:
            if not self._guarded:
                self._process.kill()
        self._lose()
        await asyncio.to_thread(self._process.wait, within_seconds=_ANSWER_WITHIN_SECONDS)

    def kill(self) -> None:
        """End it at once, whatever it guards: for one that hangs, before another takes its place."""
        self._process.kill()
        self._lose()
        self._process.wait(within_seconds=_DEAD_WITHIN_SECONDS)

    async def died(self) -> None:
        """Come back when there is no guard any more: start another or stop the guests."""
        await self._died.wait()

    async def _ready_or_dead(self) -> None:
        ready, died = asyncio.ensure_future(self._ready.wait()), asyncio.ensure_future(self._died.wait())
        try:
            await asyncio.wait((ready, died), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            died.cancel()

    async def _ask(self, verb: str, *fields: object, pidfd: int | None = None) -> str | None:
        """Send, and wait for the answer: None, or why not."""
        self._serial += 1
        serial = str(self._serial)
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._answers[serial] = answer
        try:
            self._send(wire.pack(verb, serial, *fields), pidfd=pidfd)
            return await self._in_time(answer)
        except OSError as error:
            raise GuardLost(f"the guard does not answer ({verb}): nothing is sure to stop the guests") from error
        finally:
            del self._answers[serial]

    async def _in_time(self, answer: asyncio.Future[str | None]) -> str | None:
        """Raises `TimeoutError`, but not where it was this program that was held up: then the answer is there."""
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_SECONDS):
                return await asyncio.shield(answer)
        except TimeoutError:
            for _ in range(_MOST_UNREAD):
                if not (answer.done() or self._died.is_set()):
                    self._on_readable()
            if answer.done():
                return answer.result()
            raise

    def _send(self, packet: bytes, *, pidfd: int | None) -> None:
        if self._died.is_set():
            raise ConnectionError("the guard is gone")
        if pidfd is None:
            self._link.send(packet)
        else:
            socket.send_fds(self._link, [packet], [pidfd])

    def _on_readable(self) -> None:
        try:
            packet, pidfds, _, _ = socket.recv_fds(self._link, wire.LONGEST_PACKET_BYTES, 1)
        except BlockingIOError:
            return
        except ConnectionError:
            packet, pidfds = b"", []
        if packet:
            self._take_in(wire.unpack(packet), pidfds=pidfds)
        else:
            self._lose()

    def _take_in(self, fields: list[str], *, pidfds: list[int]) -> None:
        match fields:
            case [wire.READY, name, seconds, words]:
                standing, _, reason = words.partition(" ")
                self._process.introduce(wire.unpack_name(name), *pidfds)
                self.watchdog = WatchdogReport(standing, float(seconds), reason)
                self._ready.set()
            case [wire.WATCHING, seconds]:
                self.watchdog = WatchdogReport(OPEN, float(seconds))
                note("watchdog_taken_over", level=logging.WARNING, timeout_seconds=seconds)
            case [wire.ABSENT, _, _, reason]:
                self.watchdog = WatchdogReport(ABSENT, 0.0, reason)
            case [wire.DONE, serial]:
                self._settle(serial, refusal=None)
            case [wire.REFUSED, serial, *reason]:
                self._settle(serial, refusal=" ".join(reason))
            case [event, name]:
                self._hear_of(event, wire.unpack_name(name))

    def _hear_of(self, event: str, guest: Name) -> None:
        match event:
            case wire.STRIKING:
                note("guard_strikes", level=logging.ERROR, guest=guest)
            case wire.STUCK:
                note("guard_finds_stuck", level=logging.CRITICAL, guest=guest)
            case wire.FREEZING:
                self._frozen.add((guest.pid, guest.start))
            case wire.FROZEN:
                note("guard_has_frozen", level=logging.ERROR, guest=guest)
            case wire.COMMANDED:
                note("guard_runs_command", level=logging.ERROR, guest=guest)
            case wire.GONE:
                self._forget((guest.pid, guest.start))

    def _settle(self, serial: str, *, refusal: str | None) -> None:
        answer = self._answers.get(serial)
        if answer is not None and not answer.done():
            answer.set_result(refusal)

    def _lose(self) -> None:
        """There is no guard at the other end any more, or none of ours."""
        if self._link.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._link)
            self._link.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionError("the guard is gone"))
        self._died.set()

