"""Guests without processes and a guard without a process, on virtual time.

A fake guest behaves as `ports.Guest` says: it exists behind a closed gate, runs once that is open, and is gone some
time after it is killed, or never while it is `stuck`. `untold` is how many more times the kernel cannot tell whether it
is gone. What it did is on record for judges, on true time (that of the loop), whatever the host's clock says. It must
be used inside `run_virtual`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Callable, Mapping, Sequence

from etcdlock.errors import GuardLost, GuestNotStarted, NoSuchGuest, SessionLost
from etcdlock.escalation import KILLED, Action, Charge
from etcdlock.model import DomainId, Resource
from etcdlock.ports import Clock, ExitStatus, Guard, Guest, GuestName, Processes
from etcdlock.testing.bell import Bell

FIRST_PID = 1000
FIRST_START = 100_000
ENDING_SIGNALS = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL})


class FakeGuest:
    """One guest. Made by `FakeGuests.start`."""

    def __init__(
        self,
        command: Sequence[str],
        /,
        *,
        environment: Mapping[str, str],
        pid: int,
        life_seconds: float | None,
        death_seconds: float,
    ) -> None:
        self.command = tuple(command)
        self.environment = dict(environment)
        self.pid = pid
        self.pid_start = pid * 10
        self.pidfd = -1
        self.death_seconds = death_seconds
        self.stuck = False
        self.untold = 0
        self.token: int | None = None
        self.opened_at: float | None = None
        self.killed_at: float | None = None
        self.gone_at: float | None = None
        self.signals: list[int] = []
        self.frozen = False
        self._stood: list[tuple[float, float | None]] = []
        self._life_seconds = life_seconds
        self._gone: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()

    @property
    def runs(self) -> bool:
        """Whether it has begun to run, anything of it is left, and that does not stand."""
        return self.opened_at is not None and self.gone_at is None and not self.frozen

    def end(self, code: int = 0) -> None:
        """It ends by itself."""
        self._end(ExitStatus(code))

    def thaw(self) -> None:
        """What kept it from dying is over."""
        self.stuck = False
        if self.killed_at is not None:
            self._die()

    # The port.

    def open_gate(self, *, token: int) -> None:
        if self.token is not None or self.killed_at is not None:
            raise RuntimeError("the gate was opened or refused before")
        self.token, self.opened_at = token, _now()
        if self._life_seconds is not None:
            asyncio.get_running_loop().call_later(self._life_seconds, self.end)

    def signal(self, number: int, /) -> None:
        if self.gone_at is None:
            self.signals.append(number)
            if number in ENDING_SIGNALS:
                self._end(ExitStatus(0, number))

    def kill(self) -> None:
        if self.killed_at is not None or self.gone_at is not None:
            return
        self.killed_at = _now()
        if self.death_seconds:
            asyncio.get_running_loop().call_later(self.death_seconds, self._die)
        else:
            self._die()

    @property
    def ran(self) -> list[tuple[float, float | None]]:
        """From when to when it ran, but for when it stood; None where it still does."""
        opened = self.opened_at
        if opened is None:
            return []
        begun = [opened, *(None if went_on is None else max(opened, went_on) for _, went_on in self._stood)]
        stopped = [*(stood for stood, _ in self._stood), self.gone_at]
        spans = [(since, until) for since, until in zip(begun, stopped, strict=True) if since is not None]
        return [(since, until) for since, until in spans if until is None or since < until]  # it stood behind its gate

    @property
    def stood(self) -> list[tuple[float, float | None]]:
        """From when to when it was frozen; None where it still is."""
        return list(self._stood)

    def freeze(self) -> None:
        if not self.frozen and self.gone_at is None and self.killed_at is None:  # what is dying dies
            self.frozen = True
            self._stood.append((_now(), None))

    def stands(self) -> bool:
        return self.frozen or self.gone_at is not None

    def go_on(self) -> None:
        if self.frozen:
            self.frozen = False
            self._stood[-1] = (self._stood[-1][0], _now())

    async def gone(self) -> ExitStatus:
        if self.untold:
            self.untold -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return await asyncio.shield(self._gone)

    def _die(self) -> None:
        if not self.stuck:
            self._end(ExitStatus(0, signal.SIGKILL))

    def _end(self, status: ExitStatus) -> None:
        if self.gone_at is None:
            self.gone_at = _now()
            self._gone.set_result(status)


class FakeGuests:
    """Starts fake guests, and remembers them in `started`.

    `life_seconds`: how long a guest runs before it ends by itself, None for ever. `death_seconds`: how long it takes to
    be gone once it is killed. `refuse` says that the command cannot be executed.
    """

    def __init__(
        self, *, life_seconds: float | None = None, death_seconds: float = 0.0, first_pid: int = FIRST_PID
    ) -> None:
        self._first_pid = first_pid
        self.life_seconds = life_seconds
        self.death_seconds = death_seconds
        self.refuse = False
        self.started: list[FakeGuest] = []

    async def start(self, command: Sequence[str], /, *, environment: Mapping[str, str]) -> Guest:
        if self.refuse or not command:
            raise GuestNotStarted(f"{' '.join(command) or 'no command'}: refused", missing=True)
        guest = FakeGuest(
            command,
            environment=environment,
            pid=self._first_pid + len(self.started),
            life_seconds=self.life_seconds,
            death_seconds=self.death_seconds,
        )
        self.started.append(guest)
        return guest


class FakeProcesses(Processes):
    """The processes of a host, as others start them. They take up the doors' port: whoever starts one lets it run.

    A pid may be given to a new process once the earlier one is gone; `attach` finds the one that lives.
    """

    def __init__(self, *, first_pid: int = FIRST_PID, death_seconds: float = 0.0) -> None:
        self._next_pid = first_pid
        self.death_seconds = death_seconds
        self.started: list[FakeGuest] = []
        self._incoming: set[int] = set()
        self._open: dict[int, set[tuple[str, str]]] = {}
        self.look_seconds: Callable[[], float] | None = None
        """How long it takes to look which files a process has open; drawn each time."""

    def start(self, *, incoming: bool = False, pid: int | None = None) -> FakeGuest:
        """A process that exists and does not run yet; with `incoming` it takes in a migration."""
        guest = FakeGuest(
            ["guest"],
            environment={},
            pid=self._next_pid if pid is None else pid,
            life_seconds=None,
            death_seconds=self.death_seconds,
        )
        self._next_pid += 1
        self.started.append(guest)
        guest.pid_start = FIRST_START + len(self.started)
        self._open[guest.pid_start] = set()
        if incoming:
            self._incoming.add(guest.pid_start)
        return guest

    def open(self, guest: Guest, resource: Resource) -> None:
        """From now on it has it open."""
        self._open[guest.pid_start].add((resource.lockspace, resource.name))

    def close(self, guest: Guest, resource: Resource) -> None:
        """It does not have it open any more."""
        self._open[guest.pid_start].discard((resource.lockspace, resource.name))

    # The port.

    def attach(self, pid: int, /) -> FakeGuest:
        for guest in self.started:
            if guest.pid == pid and guest.gone_at is None:
                return guest
        raise NoSuchGuest(f"there is no process {pid}")

    async def left_behind(self, ended: frozenset[GuestName], /) -> Mapping[GuestName, Guest]:  # noqa: ARG002
        return {}  # a guest here has one process

    async def awaits_migration(self, guest: Guest, domain: DomainId, /) -> bool:  # noqa: ARG002 - the port's
        return guest.pid_start in self._incoming

    async def has_open(self, guest: Guest, resource: Resource, /) -> bool:
        if self.look_seconds is not None:
            await asyncio.sleep(self.look_seconds())
        return (resource.lockspace, resource.name) in self._open[guest.pid_start]


class FakeGuard(Guard):
    """A guard that goes on whatever becomes of the program it serves, until it is told to die.

    It acts `lag_seconds` late, as a process does that is not scheduled at once.
    """

    def __init__(self, clock: Clock, /, *, stop_after_seconds: float, lag_seconds: float = 0.0) -> None:
        self._clock = clock
        self._stop_after_seconds = stop_after_seconds
        self._lag_seconds = lag_seconds
        self._proven: dict[str, float] = {}
        self._armed: dict[int, tuple[Guest, str, Charge]] = {}
        self._frozen: dict[int, Guest] = {}
        self._changed = Bell()
        self._dead = asyncio.Event()
        self._keeping = asyncio.ensure_future(self._keep())

    @property
    def armed(self) -> frozenset[int]:
        """The pids it watches over."""
        return frozenset(self._armed)

    @property
    def frozen(self) -> frozenset[GuestName]:
        """The guests that it holds."""
        return frozenset((guest.pid, guest.pid_start) for guest in self._frozen.values())

    async def arm(self, guest: Guest, /, *, session: str, charge: Charge = KILLED) -> None:
        self._check_alive()
        if self._clock.now() >= self._stop_at(session):
            raise SessionLost(f"guest {guest.pid} cannot be guarded: session {session} is not proven")
        self._armed[guest.pid] = (guest, session, charge)
        self._changed.ring()

    async def hold(self, guest: Guest, /, *, session: str, charge: Charge) -> None:  # noqa: ARG002 - until it is armed
        self._check_alive()
        guest.freeze()
        self._frozen[guest.pid] = guest

    async def go_on(self, guest: Guest, /) -> None:
        self._check_alive()
        if guest.pid not in self._armed:
            raise SessionLost(f"guest {guest.pid} is not armed")
        self._frozen.pop(guest.pid, None)
        guest.go_on()

    async def prove(self, session: str, /, *, at: float) -> None:
        self._check_alive()
        self._proven[session] = max(at, self._proven.get(session, at))
        self._changed.ring()

    async def watch(self) -> str:
        """There is no watchdog, and nobody has asked for one."""
        self._check_alive()
        return ""

    async def disarm(self, guest: Guest, /) -> None:
        self._check_alive()
        self._armed.pop(guest.pid, None)
        self._frozen.pop(guest.pid, None)

    async def close(self) -> None:
        self.kill()

    def kill(self) -> None:
        """It dies, and whatever it guarded runs on."""
        self._dead.set()
        self._keeping.cancel()

    async def died(self) -> None:
        await self._dead.wait()

    def _check_alive(self) -> None:
        if self._dead.is_set():
            raise GuardLost("the guard is dead")

    def _stop_at(self, session: str) -> float:
        return self._proven.get(session, float("-inf")) + self._stop_after_seconds

    async def _keep(self) -> None:
        while True:
            left = [self._stop_at(session) - self._clock.now() for _, session, _ in self._armed.values()]
            if not left or min(left) > 0:
                await self._sleep(min(left, default=3600.0))
                continue
            await self._clock.sleep(self._lag_seconds)
            for guest, session, charge in list(self._armed.values()):
                if self._clock.now() >= self._stop_at(session):
                    del self._armed[guest.pid]
                    self._stop(guest, charge)

    def _stop(self, guest: Guest, charge: Charge) -> None:
        if charge.action is not Action.FREEZE:
            guest.kill()
            return
        guest.freeze()
        self._frozen[guest.pid] = guest

    async def _sleep(self, seconds: float) -> None:
        """Until then, or until something has changed."""
        sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((sleeping, changed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            changed.cancel()


def _now() -> float:
    return asyncio.get_running_loop().time()
