"""The kernel's table of processes, and which of them belong to a guest.

A process is named by pid and start time, never by its pid alone: a pid is used again. Nothing here signals a process it
has not just recognised by both. A guest's family is its leader, the leader's process group, whatever carries the mark
that the gate left in the leader's environment, everything recognised before, and all descendants of these.

Not found: a process that left the group, emptied its environment and lost its parents, all since it was last looked
for. A group's number is believed only while the leader stands behind it: without it, the number may be somebody else's.
/proc must show the processes of all users the guest runs as (no hidepid). What the kernel refuses to show for want of
memory or descriptors is an `OSError`, never a process that is not there.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MARK = "ETCDLOCK_GUEST"
"""Environment variable of every guest, set by its gate: its leader as `<pid>:<start>`, behind those of the guests that
this guest itself runs in, divided by commas."""


@dataclass(frozen=True, slots=True)
class Name:
    """One process for good. `start` is in clock ticks since boot, field 22 of /proc/<pid>/stat."""

    pid: int
    start: int

    def __str__(self) -> str:
        return f"{self.pid}:{self.start}"


@dataclass(frozen=True, slots=True)
class Process:
    """A line of the table. `waiting` is uninterruptible sleep: what must touch its memory would wait with it.
    `stopped`: by a signal, as far as its first thread tells.
    """

    name: Name
    parent: int
    group: int
    alive: bool
    waiting: bool
    stopped: bool = False


class Table:
    """Processes as they were at one look."""

    def __init__(self, processes: Iterable[Process]) -> None:
        self._processes = {process.name.pid: process for process in processes}
        self._children: dict[int, list[Process]] = {}
        self._groups: dict[int, list[Process]] = {}
        for process in self:
            self._children.setdefault(process.parent, []).append(process)
            self._groups.setdefault(process.group, []).append(process)

    def __iter__(self) -> Iterator[Process]:
        return iter(self._processes.values())

    def find(self, name: Name, /) -> Process | None:
        """This very process, if it was there."""
        process = self._processes.get(name.pid)
        return process if process is not None and process.name == name else None

    def at(self, pid: int, /) -> Process | None:
        """Whoever had this pid."""
        return self._processes.get(pid)

    def children(self, pid: int, /) -> list[Process]:
        """Whose parent has this pid."""
        return self._children.get(pid, [])

    def group(self, number: int, /) -> list[Process]:
        """Who is in this process group."""
        return self._groups.get(number, [])


def parse(stat: bytes, /) -> Process:
    """From /proc/<pid>/stat. The second field, in parentheses, may itself hold blanks and parentheses."""
    head, _, tail = stat.rpartition(b")")
    fields = tail.split()
    state, threads = fields[0], int(fields[17])
    # A process whose first thread has ended is shown as a zombie while its other threads run on.
    alive = state not in (b"Z", b"X", b"x") or threads > 1
    name = Name(int(head.split(b" ", 1)[0]), int(fields[19]))
    waiting, stopped = state == b"D", state == b"T"
    parent, group = int(fields[1]), int(fields[2])
    return Process(name, parent=parent, group=group, alive=alive, waiting=waiting, stopped=stopped)


def look_up(pid: int, /) -> Process | None:
    """The process that has this pid now."""
    stat = _read(pid, file="stat")
    return parse(stat) if stat else None


def read_table() -> Table:
    """All processes. A process born or gone while the table is read may be in it or not."""
    found = (look_up(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return Table(process for process in found if process is not None)


def family(
    table: Table,
    *,
    leader: Name,
    known: frozenset[Name] = frozenset(),
    adopter: int = 0,
    spared: frozenset[Name] = frozenset(),
) -> list[Process]:
    """The living processes of a guest.

    `known` were recognised before. All children of `adopter` that began after the leader are the guest's, but for those
    that are `spared`: neither they nor what they have started are anybody's.
    """
    found: dict[Name, Process] = {}
    left = [process for process in map(table.find, (leader, *known)) if process is not None]
    if left and left[0].name == leader:
        left += table.group(leader.pid)
    if adopter:
        left += [process for process in table.children(adopter) if process.name.start > leader.start]
    while left:
        process = left.pop()
        is_new = process.name not in found and process.name not in spared
        if is_new and process.name.start >= leader.start:
            found[process.name] = process
            left += table.children(process.name.pid)
    return [process for process in found.values() if process.alive]


def marks(table: Table, *, leaders: frozenset[Name]) -> dict[Name, frozenset[Name]]:
    """For each leader those that carry its mark.

    Reads their environment, which lies in their memory: that can wait for as long as they do, so call it where waiting
    does no harm. Those in uninterruptible sleep are read last, and only if a leader would be said to have none: a guest
    that does nothing but write is hardly ever seen otherwise.
    """
    found: dict[Name, set[Name]] = {leader: set() for leader in leaders}
    by_text = {str(leader): leader for leader in leaders}
    earliest = min((leader.start for leader in leaders), default=0)
    for process in sorted(table, key=lambda process: process.waiting):
        if process.waiting and all(found.values()):
            break
        if process.alive and process.name.start >= earliest:
            for text in _mark(process.name.pid):
                if text in by_text:
                    found[by_text[text]].add(process.name)
    return {leader: frozenset(names) for leader, names in found.items()}


def send(name: Name, *, number: int) -> None:
    """Signal exactly this process; without effect if it is gone."""
    try:
        pidfd = open_pidfd(name)
        if pidfd is None:
            return
        try:
            signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)
    except (ProcessLookupError, PermissionError):
        return      # a permission that is missing shows in the process that stays


def open_pidfd(name: Name, /) -> int | None:
    """A descriptor for exactly this process; None if it is gone.

    The pid is looked up again once the descriptor is open: what has the same start now had it all along.
    """
    try:
        pidfd = os.pidfd_open(name.pid)
    except ProcessLookupError:
        return None
    try:
        process = look_up(name.pid)
    except OSError:
        os.close(pidfd)
        raise
    if process is not None and process.name == name:
        return pidfd
    os.close(pidfd)
    return None


def _mark(pid: int) -> list[str]:
    """The leaders named by this process's mark; none if its environment may not be read."""
    prefix = f"{MARK}=".encode()
    try:
        environment = _read(pid, file="environ").split(b"\0")
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return []
    mark = next((entry for entry in environment if entry.startswith(prefix)), b"")
    return mark.removeprefix(prefix).decode("ascii", "replace").split(",")


def _read(pid: int, *, file: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{file}", "rb", buffering=0) as stream:
            return stream.readall()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
