"""A machine of its own inside this one: namespaces that die with us, and programs started in them.

Guaranteed: when the process that made a `Machine` ends, however it ends, the kernel kills all that runs in it and takes
its network and its mounts away. The first process in it reads a pipe whose other end only we hold; at the end of the
pipe it ends, and with it its pid namespace. There is nothing to clean up and nobody who would have to.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self, cast

from tests.libvirt.process_table import children, is_alive, is_stopped
from tests.libvirt.waiting import wait_until

_GONE_WITHIN_SECONDS = 15.0
_NEW = ("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--propagation", "private")
_FIRST = """
set -eu
read -r pid _ </proc/self/stat
mount -t proc proc /proc
mount -t sysfs sysfs /sys
{setup}
echo "$pid"
exec env --ignore-signal=CHLD cat >/dev/null
"""
"""Told while the old /proc is still there, the pid is the one we know it by. With SIGCHLD ignored the kernel reaps
orphans; `cat` is what waits for the end of the pipe. A new /sys shows the new network."""


class Machine:
    """Namespaces for network, mounts, host name and processes. `setup` is shell code that runs first in them.

    `arguments` are that code's $1, $2, and so on. Raises RuntimeError if it fails. With `clock_ahead_seconds` its
    CLOCK_BOOTTIME is ahead of ours by so much.
    """

    def __init__(self, setup: str = "", *arguments: str, clock_ahead_seconds: int = 0) -> None:
        clock = ("--time", "--boottime", str(clock_ahead_seconds)) if clock_ahead_seconds else ()
        self._clock = clock[:1]
        self._unshare = subprocess.Popen(
            [*_NEW, *clock, "sh", "-c", _FIRST.format(setup=setup), "sh", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        told = cast("IO[bytes]", self._unshare.stdout).readline()
        if not told:
            self.close()
            raise RuntimeError("the namespaces could not be made; what failed has been written to stderr")
        self.pid = int(told)

    @property
    def is_up(self) -> bool:
        return self._unshare.poll() is None

    def inside(self, argv: Sequence[str], /) -> list[str]:
        """The command that runs `argv` in here. It dies with nsenter, so that a timeout ends both."""
        return [
            *("nsenter", "--target", str(self.pid), "--net", "--mount", "--uts", "--pid", *self._clock, "--"),
            *("setpriv", "--pdeathsig", "KILL", "--", *argv),
        ]

    def path(self, path: str, /) -> Path:
        """A file in here, as it can be reached from outside."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    def close(self) -> None:
        """Everything in here is killed at the same instant, and is gone on return; harmless when done before."""
        for pipe in (self._unshare.stdin, self._unshare.stdout):
            cast("IO[bytes]", pipe).close()
        self._unshare.wait(timeout=_GONE_WITHIN_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Program:
    """A program that runs in a machine. What it writes is added to the file `log`."""

    def __init__(self, machine: Machine, argv: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        self._log = log
        self._name = argv[0]
        with log.open("ab") as output:
            self._log_begins = output.tell()
            self._nsenter = subprocess.Popen(
                machine.inside(argv),
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._forked, what=f"{self._name} has been started")
        self._pids = children(self._nsenter.pid)

    @property
    def pid(self) -> int:
        """Its number out here. Raises ProcessLookupError if it ended at once."""
        if not self._pids:
            raise ProcessLookupError(f"{self._name} has ended; {self.end_of_log()}")
        return self._pids[0]

    @property
    def is_running(self) -> bool:
        return self._nsenter.poll() is None

    def signal(self, number: int, /) -> None:
        """Without effect once it has ended."""
        if self.is_running and is_alive(self.pid):
            os.kill(self.pid, number)

    def wait(self, *, within_seconds: float = _GONE_WITHIN_SECONDS) -> int:
        """Its exit status, negative for a signal. Raises `subprocess.TimeoutExpired`."""
        return self._nsenter.wait(timeout=within_seconds)

    def terminate(self) -> int:
        """SIGTERM, and SIGKILL if that does not help. It is gone on return."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """SIGKILL. It is gone on return; what it has started is not."""
        self.signal(signal.SIGKILL)
        self.thaw()
        return self.wait()

    def freeze(self) -> None:
        """SIGSTOP: from now on it does nothing, and nobody is told."""
        self.signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(self._nsenter.pid), what="nsenter has stopped itself as well")

    def thaw(self) -> None:
        """It goes on, told so by nsenter; harmless if it is not frozen."""
        self._nsenter.send_signal(signal.SIGCONT)

    def output(self) -> str:
        """What it has written until now."""
        with self._log.open("rb") as log:
            log.seek(self._log_begins)
            return log.read().decode(errors="replace")

    def end_of_log(self) -> str:
        """For messages."""
        return f"the end of {self._log}:\n{self.output()[-3000:]}"

    def _forked(self) -> bool:
        return bool(children(self._nsenter.pid)) or not self.is_running
