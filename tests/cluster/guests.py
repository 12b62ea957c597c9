"""Guests as processes on hosts: how they are started, spoken to and seen to end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, cast

from etcdlock.demo.timeline import now
from tests.cluster import guest as guest_program
from tests.cluster.disk import Disk
from tests.cluster.host import Host
from tests.libvirt.process_table import children, pid_here

ANSWER_SECONDS: Final = 5.0
_LOOK_EVERY_SECONDS: Final = 0.1
_END_SECONDS: Final = 20.0
_POWERED_OFF: Final = "power"


class Guest:
    """One process that writes a disk, from its start to its end, which is seen from outside."""

    def __init__(self, host: Host, disk: Disk, process: subprocess.Popen[bytes]) -> None:
        self.host = host
        self.boot = host.boot
        self.disk = disk
        self.pid = 0
        """As its host numbers it."""
        self.ended_at: float | None = None
        """When nothing was left of it, by our clock."""
        self.ended_by = ""
        """Who has ended it, if we have: what is empty and has ended was stopped."""
        self.process = process
        self._pidfd: int | None = None
        self._ended = threading.Event()

    @property
    def runs(self) -> bool:
        """Whether it has not been seen to end."""
        return not self._ended.is_set()

    def wait(self, *, within_seconds: float) -> bool:
        """Whether it ended in that time."""
        return self._ended.wait(within_seconds)

    def appears(self, pid_there: int, /) -> None:
        """It has said that it is there."""
        self.pid = pid_there
        pid = pid_here(pid_there, of=self.host.machine.pid) if self.host.is_on else None
        with suppress(ProcessLookupError):
            if pid is not None:
                self._pidfd = os.pidfd_open(pid)
        threading.Thread(target=self._await_end, args=(self._pidfd,), daemon=True).start()

    def end(self, *, by: str) -> None:
        """Kill it; it is gone on return, but where its storage is frozen."""
        if self.runs:
            self.ended_by = self.ended_by or by
            self.kill(signal.SIGKILL)
            self.wait(within_seconds=ANSWER_SECONDS)

    def put_away(self) -> None:
        """It has ended: so does whoever has started it, once its locks are given back."""
        _put_away(self.process)

    def kill(self, number: int, /) -> None:
        """Without effect once it has ended."""
        if self._pidfd is not None and self.runs:
            with suppress(ProcessLookupError, OSError):
                signal.pidfd_send_signal(self._pidfd, number)

    def stand(self) -> bool:
        """Stop its vCPUs. Whether it said that they have."""
        return self._asked("stand") == "stands"

    def go(self, token: int, /) -> bool:
        """Let its vCPUs run. Whether it said that they do."""
        return self._asked(f"go {token}") == "goes"

    def _asked(self, request: str) -> str:
        try:
            cast("IO[bytes]", self.process.stdin).write(f"{request}\n".encode())
            cast("IO[bytes]", self.process.stdin).flush()
        except OSError:
            return ""
        return line_of(self.process, within_seconds=ANSWER_SECONDS) or ""

    def _await_end(self, pidfd: int | None) -> None:
        if pidfd is not None:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll()
        self.ended_at = now()
        if not self.host.is_on:
            self.ended_by = self.ended_by or _POWERED_OFF
        self._ended.set()


def start(host: Host, disk: Disk, /, *, wait_seconds: float, gives_up: Callable[[], bool], log: Path) -> Guest | None:
    """Start a guest as an operator does, under its locks: `etcdlock run`. None if it never ran."""
    command = [
        *(sys.executable, "-m", "etcdlock", "run", "--via", "agent", "--wait", f"{wait_seconds:g}"),
        *("--domain-uuid", str(disk.domain.uuid), "--name", disk.domain.name, "--disk", disk.path, "--"),
        *_program(disk, host),
    ]
    guest = _launch(host, disk, command, log=log)
    deadline = time.monotonic() + wait_seconds + 30.0
    while time.monotonic() < deadline and not gives_up():
        line = line_of(guest.process, within_seconds=_LOOK_EVERY_SECONDS)
        if line:
            guest.appears(int(line.split()[1]))
            return guest
        if line == "" or guest.process.poll() is not None:
            break
    _abandon(guest.process)
    return None


def receive(host: Host, disk: Disk, /, *, log: Path) -> Guest | None:
    """The process that takes a migrating guest in; its vCPUs stand, and it has no locks."""
    guest = _launch(host, disk, [*_program(disk, host), "incoming"], log=log)
    line = line_of(guest.process, within_seconds=ANSWER_SECONDS)
    if not line:
        _abandon(guest.process)
        return None
    guest.appears(int(line.split()[1]))
    return guest


def line_of(process: subprocess.Popen[bytes], /, *, within_seconds: float) -> str | None:
    """The next line that it prints; empty when it prints no more, None if none came in time."""
    output = cast("IO[bytes]", process.stdout)
    if not select.select([output], [], [], within_seconds)[0]:
        return None
    return output.readline().decode().strip()


def _program(disk: Disk, host: Host) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", str(Path(guest_program.__file__)), disk.path, host.name)


def _launch(host: Host, disk: Disk, command: list[str], *, log: Path) -> Guest:
    with log.open("ab") as errors:
        process = subprocess.Popen(
            host.machine.inside(command),
            env=host.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            bufsize=0,
        )
    return Guest(host, disk, process)


def _abandon(process: subprocess.Popen[bytes]) -> None:
    """End an attempt that has come to nothing: by SIGTERM, which ends the waiting, or a guest that runs after all."""
    for pid in children(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    _put_away(process)


def _put_away(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()      # nsenter; the command dies with it
        process.wait()
    for pipe in (process.stdin, process.stdout):
        cast("IO[bytes]", pipe).close()
