"""What the tests with real guests and real guards share."""

from __future__ import annotations

import asyncio
import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import etcdlock
from etcdlock.adapters.clock import BootClock
from etcdlock.adapters.guardlink import NO_EQUIPMENT
from etcdlock.guard import table, wire
from etcdlock.guard.rules import Limits
from etcdlock.guard.table import Name
from etcdlock.guard.wire import Equipment

DEADLINE_SECONDS = 15.0
BUDGET_SECONDS = 1.2
SLACK_SECONDS = 0.8
RAW_STOP_AFTER_SECONDS = 10.0
"""Of `raw_guard`."""
WITH_PACKAGE = {**os.environ, "PYTHONPATH": str(Path(etcdlock.__file__).parents[1])}
GUARD = Path(table.__file__).with_name("__main__.py")
PARENT = Path(__file__).with_name("guarded_parent.py")
CLOCK = BootClock()
T = TypeVar("T")

STUBBORN = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, 0)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
if sys.argv[1:] == ["stopped"]: os.kill(os.getpid(), signal.SIGSTOP)
os.fork() or os.setsid()
while True: signal.pause()
"""
"""A guest of two processes and sessions that lives on though its parent dies, and ignores what can be ignored."""

DAEMON = """
import os, sys
if os.fork():
    if sys.argv[3:] == ["end"]: os._exit(3)
    os.wait()
    open(sys.argv[2]).read()
os.setsid()
if os.fork(): os._exit(0)
os.execve(sys.executable, [sys.executable, "-c", '''
import os, sys
with open(sys.argv[1] + ".part", "w") as stream: stream.write(str(os.getpid()))
os.rename(sys.argv[1] + ".part", sys.argv[1])
open(sys.argv[2]).read()
''', *sys.argv[1:]], {})
"""
"""A daemon without group, parent or environment of the guest's: writes its pid into one file, then lives until somebody
has written to the other, a FIFO. With `end` its starter does not wait for that too."""


def limits(stop_after_seconds: float, *, kill_seconds: float = 5.0) -> Callable[[object], Limits]:
    """As `GuardLink.start` takes them."""
    kept = Limits(stop_after_seconds, kill_seconds / 2, kill_seconds, stop_after_seconds + kill_seconds)
    return lambda _: kept


def run(what: Coroutine[Any, Any, T]) -> T:
    """Within the deadline."""

    async def bounded() -> T:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await what

    return asyncio.run(bounded())


def ends(pidfd: int, *, within_seconds: float = DEADLINE_SECONDS) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(within_seconds * 1000))


def lives(pid: int) -> bool:
    process = table.look_up(pid)
    return process is not None and process.alive


def comes_true(claim: Callable[[], object], *, within_seconds: float = DEADLINE_SECONDS) -> bool:
    until = CLOCK.now() + within_seconds
    while not (is_so := bool(claim())) and CLOCK.now() < until:
        select.select([], [], [], 0.01)
    return is_so


def carrying(mark: str) -> set[int]:
    """Living processes whose environment has this guest's mark."""
    pid, _, start = mark.partition(":")
    leader = Name(int(pid), int(start))
    return {name.pid for name in table.marks(table.read_table(), leaders=frozenset({leader}))[leader]}


@dataclass(frozen=True)
class Guarded:
    """The running program, a pidfd of its first guard, its guest's name, and when the guest had been let go."""

    program: subprocess.Popen[str]
    guard: int
    guard_pidfd: int
    guest: str
    begun: float

    @property
    def leader(self) -> int:
        return int(self.guest.partition(":")[0])

    def line(self) -> str:
        assert self.program.stdout is not None
        return self.program.stdout.readline().strip()

    def prod(self) -> None:
        """Send it a line."""
        assert self.program.stdin is not None
        self.program.stdin.write("\n")
        self.program.stdin.flush()


@contextmanager
def raw_guard(
    *options: str,
    python: Sequence[str] = (sys.executable, "-I", "-S"),
    guard_file: Path = GUARD,
    folder: Path = Path("/"),
    errors: int | IO[bytes] = subprocess.PIPE,
    equipment: Equipment = NO_EQUIPMENT,
) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """A guard that nobody has prepared the ground for, and our end of its socket. It is ready."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    command = [*python, *options, str(guard_file), str(theirs.fileno())]
    passed, pipe = (theirs.fileno(), writing), subprocess.PIPE
    starting = subprocess.Popen(command, pass_fds=passed, stdin=pipe, stdout=pipe, stderr=errors, cwd=folder)
    with ours, theirs, starting as guard:
        os.close(writing)
        theirs.close()
        ours.settimeout(DEADLINE_SECONDS)
        ours.send(wire.pack(wire.EQUIP, 0, *wire.pack_equipment(equipment)))
        assert re.fullmatch(rb"ready \d+:\d+ 0\.0 (off|waits) ", ours.recv(100))
        ours.send(wire.pack(wire.LIMITS, 0, *wire.pack_limits(Limits(RAW_STOP_AFTER_SECONDS, 0.5, 1.0, 11.0))))
        assert ours.recv(100) == b"done 0"
        try:
            yield ours, guard
        finally:
            ours.close()
            os.close(reading)
            guard.wait(DEADLINE_SECONDS)


@contextmanager
def guarded(*command: str, budget_seconds: float = BUDGET_SECONDS) -> Iterator[Guarded]:
    """`guarded_parent` with this guest; its guard must end with the guest."""
    with subprocess.Popen(
        [sys.executable, str(PARENT), str(budget_seconds), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=WITH_PACKAGE,
    ) as program:
        assert program.stdout is not None
        guard = int(program.stdout.readline())
        pidfd = os.pidfd_open(guard)
        guest = program.stdout.readline().strip() if command else ""
        try:
            yield Guarded(program, guard, pidfd, guest, CLOCK.now())
        finally:
            program.kill()
            assert ends(pidfd), "the guard outlived its guests"
            os.close(pidfd)
