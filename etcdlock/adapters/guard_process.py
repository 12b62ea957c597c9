"""The guard's process and our end of its socket: a child of ours, or one in a unit of its own that systemd starts.

A unit's guard is in no cgroup of ours: what ends or limits our unit does not reach it. Where there is no such unit, or
it does not answer, a child does the same work for as long as nobody ends everything in our cgroup.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from pathlib import Path

from etcdlock.guard import handle, program
from etcdlock.guard.table import Name


class GuardProcess:
    """Who it is, the guard says itself (`introduce`): a unit's has no other name here."""

    def __init__(self, child: subprocess.Popen[bytes] | None = None, /) -> None:
        self._child = child
        self._pidfd = -1
        self.name: Name | None = None

    def __del__(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)

    @property
    def pid(self) -> int:
        """Known from the first: of a child; of a unit's guard, once it has said so."""
        if self._child is not None:
            return self._child.pid
        return self.name.pid if self.name is not None else 0

    @property
    def is_ours(self) -> bool:
        """Whether it is a child of this program."""
        return self._child is not None

    def introduce(self, name: Name, pidfd: int, /) -> None:
        """It has said who it is. The descriptor is ours from here on."""
        self.name, self._pidfd = name, pidfd

    def kill(self) -> None:
        """End it. A unit's guard that has not said who it is has nothing to guard, and ends with its socket."""
        if self._child is not None:
            self._child.kill()
        elif self._pidfd >= 0:
            handle.send(self._pidfd, signal.SIGKILL)

    def wait(self, *, within_seconds: float) -> None:
        """Wait for its end, but no longer than that."""
        if self._child is None:
            self._wait_for_stranger(within_seconds)
            return
        try:
            self._child.wait(within_seconds)
        except subprocess.TimeoutExpired:
            self._child.returncode = 0      # it is init's child from the day we end

    def _wait_for_stranger(self, within_seconds: float) -> None:
        if self._pidfd >= 0:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            poll.poll(within_seconds * 1000)


def spawn() -> tuple[socket.socket, GuardProcess]:
    """A child, in a session of its own: the terminal's signals are not for it. Raises `OSError`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    try:
        child = subprocess.Popen(  # noqa: S603 - our own program, from our own folder
            program.command_line(theirs.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            cwd="/",
            env=program.environment_of(os.environ),
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours, GuardProcess(child)


def connect(path: str, /) -> tuple[socket.socket, GuardProcess] | None:
    """Have systemd start one for us; None where there is no such socket. Raises `OSError` if it is not listened on."""
    if not Path(path).exists():
        return None
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.setblocking(False)
    try:
        link.connect(path)
    except OSError:
        link.close()
        raise
    return link, GuardProcess()
