"""Guests that `etcdlock run` or `reserve` has started and this host's agent guards: all processes, not the first alone.

Such a guest has ended once its leader has, and nothing is left that descends from it or carries the mark that its gate
left behind (`guard.table`): its locks are given back no earlier.

An agent that comes later finds what lives on by that mark (`LeftBehind`), though the leader has ended unseen.

Not found: what has left the group, emptied its environment and lost its parents, as in `guard.table`, unless the agent
that knew it still runs.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from concurrent.futures import Executor
from pathlib import Path

from etcdlock.adapters.host_processes import FoundGuest
from etcdlock.guard import table
from etcdlock.ports import ExitStatus

_LOOK_EVERY_SECONDS = 0.1
_GATE = (b"-I", b"-S", b"gate.py")
_RUN = frozenset(((b"etcdlock", b"run"), (b"etcdlock", b"reserve")))


class GatedGuest(FoundGuest):
    """`threads` read marks, which may have to wait."""

    def __init__(self, name: table.Name, pidfd: int, /, *, threads: Executor) -> None:
        super().__init__(name, pidfd)
        self._threads = threads
        self._known: frozenset[table.Name] = frozenset()

    def kill(self) -> None:
        """To all that are known. What is found later is struck by whoever repeats this, as is done until it is gone."""
        super().kill()
        for process in self._family():
            table.send(process.name, number=signal.SIGKILL)

    async def gone(self) -> ExitStatus:
        """Wait until its last process has ended."""
        self._family()
        status = await super().gone()
        while await self._is_left():
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
        return status

    async def _is_left(self) -> bool:
        """Two looks in a row must find nothing: one may miss what is born while it reads."""
        for _ in range(2):
            marked = await asyncio.get_running_loop().run_in_executor(self._threads, _marked, self._name)
            self._known |= marked
            if self._family():
                return True
        return False

    def _family(self) -> list[table.Process]:
        found = table.family(table.read_table(), leader=self._name, known=self._known)
        self._known = frozenset(process.name for process in found)
        return found


class LeftBehind(GatedGuest):
    """What lives on of a guest whose leader has ended and is nobody's to name any more."""

    def __init__(self, name: table.Name, /, *, known: frozenset[table.Name], threads: Executor) -> None:
        super().__init__(name, _pidfd_of_one_that_has_ended(), threads=threads)
        self._known = known


def living_of(leaders: frozenset[table.Name], /) -> dict[table.Name, frozenset[table.Name]]:
    """For each leader what lives and carries its mark. Two looks: one may miss what is born while it reads."""
    first = table.marks(table.read_table(), leaders=leaders)
    second = table.marks(table.read_table(), leaders=leaders)
    return {leader: first[leader] | second[leader] for leader in leaders}


def _pidfd_of_one_that_has_ended() -> int:
    """It says of the leader what is true of it, and a signal to it reaches nobody."""
    with subprocess.Popen((sys.executable, "-I", "-S", "-c", "")) as ended:
        return os.pidfd_open(ended.pid)


def is_gated(process: table.Process, /) -> bool:
    """Whether it waits behind a gate, or is what `etcdlock run` or `reserve` has let through one.

    Reads no memory but that of Python programs: a guest's own may have to be waited for. A gate's command has the
    parent that its gate had, or dies with it.
    """
    return _is_gate(process.name.pid) or _runs_guests(process.parent)


def _is_gate(pid: int) -> bool:
    _, *arguments = _arguments_of_python(pid)
    return (*arguments[:2], *(argument.rpartition(b"/")[2] for argument in arguments[2:3])) == _GATE


def _runs_guests(pid: int) -> bool:
    arguments = [argument.rpartition(b"/")[2] for argument in _arguments_of_python(pid)]
    return not _RUN.isdisjoint(itertools.pairwise(arguments))


def _arguments_of_python(pid: int) -> list[bytes]:
    try:
        if not Path(f"/proc/{pid}/exe").readlink().name.startswith("python"):
            return [b""]
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return [b""]


def _marked(leader: table.Name) -> frozenset[table.Name]:
    return table.marks(table.read_table(), leaders=frozenset({leader}))[leader]
