"""Guests as processes of this host: `ports.Guests`.

A guest is started behind a gate (`etcdlock.guard.gate`): its process exists, can be armed and named in a record, but
becomes the command only when the gate is opened. If this process, or the thread that started the guest, ends before
that, the guest ends without having run anything; if later, its leader is killed at once and the guard sees to the rest.

This process becomes the reaper of orphans, so that what a guest leaves behind (daemons, double forks, new sessions)
stays findable: **every child of this process that is not spared belongs to the guest**. Hence one guest per process at
a time. Children that were there before, and those given to `spare` (a guard started later), are left alone.

The leader is reaped last of all: until then nobody else can be given its pid or its group's number, so signals to them
cannot hit a stranger. Not found, and so not waited for: what works on the guest's behalf but was started by others.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import etcdlock.guard
from etcdlock.adapters.terminal import BY_TERMINAL, Terminal
from etcdlock.errors import GuestNotStarted
from etcdlock.guard import table
from etcdlock.guard.stillness import Stillness
from etcdlock.guard.table import Name
from etcdlock.ports import ExitStatus

_GATE = Path(etcdlock.guard.__file__).with_name("gate.py")
_PR_SET_CHILD_SUBREAPER = 36
_STRIKE_EVERY_SECONDS = 0.1
_REAP_EVERY_SECONDS = 10.0
_ROUNDS_PER_STRIKE = 5


class LocalGuests:
    """Starts one guest at a time on this host."""

    def __init__(self) -> None:
        self._spared: set[Name] = set()
        self._last: LocalGuest | None = None

    def spare(self, pid: int) -> None:
        """This child of ours is no guest's."""
        if (process := table.look_up(pid)) is not None:
            self._spared.add(process.name)

    async def start(self, command: Sequence[str], /, *, environment: Mapping[str, str]) -> LocalGuest:
        """Start it behind a closed gate. Its environment is ours with `environment` laid over it.

        Descriptors that this process inherited for its children (a tap device, a socket) are passed on.
        """
        if self._last is not None and not self._last.is_gone:
            raise GuestNotStarted("a guest of this process still runs", missing=False)
        whole_environment = {**os.environ, **environment}
        path = _find(command, search=whole_environment.get("PATH"))
        _adopt_orphans()
        self._spared.update(process.name for process in table.read_table().children(os.getpid()))
        self._last = _start(path, command=command, environment=whole_environment, spared=self._spared)
        return self._last

    def step_back(self) -> bool:
        """Whether the terminal has stopped the guest (Ctrl-Z) since this was last asked: then we have it for us."""
        return self._last is not None and self._last.step_back()

    @property
    def is_back(self) -> bool:
        """Whether a guest has stepped back that lives, and has not gone on."""
        return self._last is not None and not self._last.is_gone and self._last.has_stepped_back

    def come_back(self) -> None:
        """A guest that has stepped back goes on, with the terminal if that is ours."""
        if self._last is not None:
            self._last.come_back()


class LocalGuest:
    """A guest of this process: `ports.Guest`."""

    def __init__(self, process: subprocess.Popen[bytes], *, gate: int, spared: set[Name]) -> None:
        leader = table.look_up(process.pid)
        if leader is None:      # it is not reaped yet, so its line is there, unless /proc is not
            raise FileNotFoundError(f"/proc/{process.pid}/stat")
        self._name = leader.name
        self._process = process
        self._gate: int | None = gate
        self._spared = spared
        self._pidfd = os.pidfd_open(process.pid)
        self._known: frozenset[Name] = frozenset()
        self._stillness = Stillness()
        self._status: ExitStatus | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._terminal = Terminal(group=process.pid)
        self.has_stepped_back = False

    @property
    def pid(self) -> int:
        return self._name.pid

    @property
    def pid_start(self) -> int:
        return self._name.start

    @property
    def pidfd(self) -> int:
        """-1 once the guest is gone: the number may be any other descriptor's by then."""
        return self._pidfd

    @property
    def is_gone(self) -> bool:
        """Whether `gone` has returned."""
        return self._status is not None

    def open_gate(self, *, token: int) -> None:
        if self._gate is None:
            raise RuntimeError("the gate was opened or refused before")
        self._terminal.give()
        gate, self._gate = self._gate, None
        try:
            os.write(gate, b"%d\n" % token)
        except BrokenPipeError:
            return      # killed while it waited: `gone` tells
        finally:
            os.close(gate)

    def signal(self, number: int, /) -> None:
        if self._status is None:
            _signal_group(self.pid, number=number)

    def kill(self) -> None:
        """Now and again until `gone` has returned: what is being born during one strike is hit by the next."""
        if self._status is not None:
            return
        self._refuse()
        for _ in range(_ROUNDS_PER_STRIKE):
            _signal_group(self.pid, number=signal.SIGKILL)
            left = self._family()
            for process in left:
                table.send(process.name, number=signal.SIGKILL)
            if not left:
                break
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_STRIKE_EVERY_SECONDS, self.kill)

    def freeze(self) -> None:
        self._signal_all(signal.SIGSTOP)

    def step_back(self) -> bool:
        """As `LocalGuests.step_back`. One that was let go on without the terminal is stopped for that, too."""
        if self._status is not None or self.has_stepped_back or not self._terminal.is_shared:
            return False
        stopped = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG)
        if stopped is None or stopped.si_status not in BY_TERMINAL:
            return False
        self._terminal.take_back(was_killed=True)
        self.has_stepped_back = True
        return True

    def come_back(self) -> None:
        """As `LocalGuests.come_back`."""
        if self.has_stepped_back and self._status is None:
            self.has_stepped_back = False
            self._terminal.give()
            _signal_group(self.pid, number=signal.SIGCONT)  # whom the terminal has stopped, and each only once

    def stands(self) -> bool:
        return self._status is not None or self._stillness.look(self._family())

    def go_on(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        if self._status is None:
            _signal_group(self.pid, number=number)
            for process in self._family():
                table.send(process.name, number=number)

    async def gone(self) -> ExitStatus:
        if self._status is not None:
            return self._status
        reaping = asyncio.create_task(self._reap_now_and_then())
        try:
            await _readable(self._pidfd)
            # Two looks in a row must find nothing: one may miss what is born while it reads.
            while self._status is None and (left := self._family() or self._family()):
                await _all_ended([process.name for process in left])
        finally:
            reaping.cancel()
        return self._finish()

    def _family(self) -> list[table.Process]:
        """The guest's living processes."""
        found = table.family(
            table.read_table(),
            leader=self._name,
            known=self._known,
            adopter=os.getpid(),
            spared=frozenset(self._spared),
        )
        self._known = frozenset(process.name for process in found)
        return found

    def _finish(self) -> ExitStatus:
        if self._status is not None:        # somebody else waited too
            return self._status
        if self._timer is not None:
            self._timer.cancel()
        self._refuse()
        self._reap_orphans()
        code = self._process.wait()
        self._terminal.take_back(was_killed=code < 0)
        os.close(self._pidfd)
        self._pidfd = -1
        self._status = ExitStatus(code) if code >= 0 else ExitStatus(128 - code, -code)
        return self._status

    def _refuse(self) -> None:
        """Close the gate for good, if it was not opened."""
        if self._gate is not None:
            os.close(self._gate)
            self._gate = None

    async def _reap_now_and_then(self) -> None:
        """A guest that lives for months may leave many a dead process to us."""
        while True:
            await asyncio.sleep(_REAP_EVERY_SECONDS)
            self._reap_orphans()

    def _reap_orphans(self) -> None:
        for process in table.read_table().children(os.getpid()):
            is_orphan = process.name != self._name and process.name not in self._spared
            if is_orphan and not process.alive and process.name.start >= self.pid_start:
                _reap(process.name.pid)


def _signal_group(group: int, *, number: int) -> None:
    """The number is ours until the leader is reaped. That some may not be signalled shows in their staying."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def _reap(pid: int) -> None:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:       # not ours any more
        return


def _find(command: Sequence[str], *, search: str | None) -> str:
    """The command's path. Raises `GuestNotStarted` while nothing has been locked for it."""
    if not command:
        raise GuestNotStarted("no command was given", missing=True)
    if (path := shutil.which(command[0], path=search)) is not None:
        return path
    if "/" in command[0] and Path(command[0]).exists():
        raise GuestNotStarted(f"{command[0]} is not an executable file", missing=False)
    raise GuestNotStarted(f"there is no command {command[0]}", missing=True)


def _start(path: str, *, command: Sequence[str], environment: Mapping[str, str], spared: set[Name]) -> LocalGuest:
    reading, writing = os.pipe()
    gate = (sys.executable, "-I", "-S", os.fspath(_GATE), str(reading), str(os.getpid()))
    try:
        process = subprocess.Popen(  # noqa: S603 - to start what the user asks for is its purpose
            (*gate, path, "--", *command),
            env=environment,
            pass_fds=(reading, *_inherited_descriptors()),
            process_group=0,
        )
    except (OSError, ValueError) as error:      # ValueError: a null byte
        os.close(writing)
        raise GuestNotStarted(f"{command[0]} cannot be started: {error}", missing=False) from error
    finally:
        os.close(reading)
    try:
        return LocalGuest(process, gate=writing, spared=spared)
    except OSError as error:
        os.close(writing)       # which ends it
        process.wait()
        raise GuestNotStarted(f"the kernel gives no handle on the guest: {error}", missing=False) from error


def _inherited_descriptors() -> tuple[int, ...]:
    """Those beyond the standard ones that were given to us to be passed on; none that we opened ourselves."""
    descriptors = (int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    return tuple(descriptor for descriptor in descriptors if _is_passed_on(descriptor))


def _is_passed_on(descriptor: int) -> bool:
    try:
        return descriptor > 2 and os.get_inheritable(descriptor)
    except OSError:     # the listing's own
        return False


def _adopt_orphans() -> None:
    """Raises `GuestNotStarted` where the end of a guest could not be told."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise GuestNotStarted(f"the kernel refuses us a guest's orphans: {reason}", missing=False)
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        # Inherited from whoever started us: the kernel would reap our children itself, and their pids were anybody's.
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        except ValueError as error:
            text = f"SIGCHLD is ignored, so a guest's end cannot be told: {error}"
            raise GuestNotStarted(text, missing=False) from error


async def _all_ended(names: Sequence[Name]) -> None:
    for name in names:
        pidfd = table.open_pidfd(name)
        if pidfd is None:
            continue
        try:
            await _readable(pidfd)
        finally:
            os.close(pidfd)


async def _readable(descriptor: int) -> None:
    """Wait on a copy: a loop has one reader per descriptor, and several may wait for one guest."""
    loop, ended, copy = asyncio.get_running_loop(), asyncio.Event(), os.dup(descriptor)
    loop.add_reader(copy, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(copy)
        os.close(copy)
