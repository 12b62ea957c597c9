"""The kernel's table of processes, and which of them belong to a guest.

A process is named by pid and start time, never by its pid alone: a pid is used again. Nothing here signals a process it
has not just recognised by both. A guest's family is its leader, the leader's process group, whatever carries the mark that
the gate left in the leader's environment, everything recognised before, and all descendants of these.

Not found: a process that left the group, emptied its environment and lost its parents, all since it was last looked for.
A group's number is believed only while the leader stands behind it: without it, the number may be somebody else's.
/proc must show the processes of all users the guest runs as (no hidepid).
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

MARK = "ETCDLOCK_GUEST"
"""Environment variable of every guest, set by its gate: its leader as `<pid>:<start>`."""


@dataclass(frozen=True, slots=True)
class Name:
    """One process for good. `start` is in clock ticks since boot, field 22 of /proc/<pid>/stat."""

    pid: int
    start: int

    def __str__(self) -> str:
        return f"{self.pid}:{self.start}"


@dataclass(frozen=True, slots=True)
class Process:
    """A line of the table."""

    name: Name
    parent: int
    group: int
    alive: bool         # not a zombie
    waiting: bool       # in uninterruptible sleep: what must touch its memory would wait with it


def parse(stat: bytes, /) -> Process:
    """From /proc/<pid>/stat. The second field, in parentheses, may itself hold blanks and parentheses."""
    head, _, tail = stat.rpartition(b")")
    fields = tail.split()
    state, threads = fields[0], int(fields[17])
    # A process whose first thread has ended is shown as a zombie while its other threads run on.
    alive = state not in (b"Z", b"X", b"x") or threads > 1
    name = Name(int(head.split(b" ", 1)[0]), int(fields[19]))
    return Process(name, parent=int(fields[1]), group=int(fields[2]), alive=alive, waiting=state == b"D")


def look_up(pid: int, /) -> Process | None:
    """The process that has this pid now."""
    stat = _read(pid, file="stat")
    return parse(stat) if stat else None


def read_table() -> list[Process]:
    """All processes. A process born or gone while the table is read may be in it or not."""
    found = (look_up(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return [process for process in found if process is not None]


def family(
    table: list[Process], *, leader: Name, known: frozenset[Name] = frozenset(), adopter: int = 0
) -> list[Process]:
    """The living processes of a guest. `known` were recognised before; children of `adopter` are all the guest's."""
    recent = [process for process in table if process.name.start >= leader.start]
    has_leader = any(process.name == leader for process in recent)
    seeds = {
        process.name.pid
        for process in recent
        if process.name == leader
        or process.name in known
        or (has_leader and process.group == leader.pid)
        or (adopter and process.parent == adopter)
    }
    return [process for process in _with_descendants(recent, pids=seeds) if process.alive]


def marked(table: list[Process], *, leader: Name) -> frozenset[Name]:
    """Those that carry the leader's mark.

    Reads their environment, which lies in their memory: that can wait for as long as they do, so those in uninterruptible
    sleep are left for the next time.
    """
    mark = f"{MARK}={leader}".encode()
    return frozenset(
        process.name
        for process in table
        if process.alive
        and not process.waiting
        and process.name.start >= leader.start
        and mark in _read(process.name.pid, file="environ").split(b"\0")
    )


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
    process = look_up(name.pid)
    if process is not None and process.name == name:
        return pidfd
    os.close(pidfd)
    return None


def _with_descendants(table: list[Process], *, pids: set[int]) -> list[Process]:
    children: dict[int, list[int]] = {}
    for process in table:
        children.setdefault(process.parent, []).append(process.name.pid)
    found, left = set(pids), list(pids)
    while left:
        born = [pid for pid in children.get(left.pop(), ()) if pid not in found]
        found.update(born)
        left.extend(born)
    return [process for process in table if process.name.pid in found]


def _read(pid: int, *, file: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{file}", "rb", buffering=0) as stream:
            return stream.readall()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
