"""Runs the commands of guests that are to be stopped: each in a process of its own, never waited for.

A command is neither locked into memory nor scheduled in real time nor spared by the OOM killer; it has no descriptor of
the guard's and is no guest's. It is told of the guest by its environment alone.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from etcdlock.guard import handle
from etcdlock.guard.table import Name

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Commands:
    """At most one for each guest."""

    def __init__(self, command: Sequence[str], /) -> None:
        self._command = tuple(command)
        self._running: dict[Name, tuple[int, int]] = {}

    def start(self, guest: Name, /, *, environment: Sequence[tuple[str, str]], left_seconds: float) -> None:
        """Start it, unless there is none: then it has ended already."""
        if not self._command:
            return
        given = {
            "PATH": _PATH,
            **dict(environment),
            "ETCDLOCK_GUEST_PID": str(guest.pid),
            "ETCDLOCK_DEADLINE": f"{max(left_seconds, 0.0):.3f}",
        }
        pid = os.fork()
        if pid == 0:
            _become(self._command, given)
        self._running[guest] = (pid, os.pidfd_open(pid))

    def runs(self, guest: Name, /) -> bool:
        """Whether the guest's command has not ended yet."""
        return guest in self._running and not handle.has_ended(self._running[guest][1])

    def end(self, guest: Name, /) -> None:
        """It has had its time: it is killed with all of its group, and forgotten once it is gone."""
        if guest not in self._running:
            return
        pid, pidfd = self._running[guest]
        handle.send_group(pid, signal.SIGKILL)      # the number is its own until it is reaped below
        handle.send(pidfd, signal.SIGKILL)          # which may have no group of its own yet
        if handle.has_ended(pidfd):
            os.waitpid(pid, os.WNOHANG)
            os.close(pidfd)
            del self._running[guest]


def _become(command: tuple[str, ...], environment: dict[str, str]) -> None:
    """Replace this new process; never returns."""
    try:
        os.setsid()
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        _be_like_others()
        os.execve(command[0], command, environment)  # noqa: S606 - no shell is wanted
    finally:
        os._exit(127)


def _be_like_others() -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
            stream.write("0")
    except OSError:
        return      # it runs all the same
