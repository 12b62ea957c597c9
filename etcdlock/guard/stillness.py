"""Tells whether a guest stands: every thread of it is stopped, and none has run since the look before.

A thread that runs, however shortly, leaves the processor again, and the kernel counts that: so between two looks that
agree nothing has run, although nobody watched. One look alone proves nothing: while it reads, what is not stopped yet
may start another process. Threads that the kernel keeps for a guest elsewhere, and what the kernel or the storage has
accepted already, do not stand.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from etcdlock.guard.table import Process

_STOPPED = b"T"
_SWITCHES = (b"voluntary_ctxt_switches", b"nonvoluntary_ctxt_switches")
_BUFFER_BYTES = 8192


class Stillness:
    """Remembers the look before."""

    def __init__(self) -> None:
        self._before: dict[int, int] = {}

    def look(self, processes: Iterable[Process], /) -> bool:
        """Whether all threads of these stand, as they did at the look before. What has ended meanwhile stands too."""
        seen = [thread for process in processes for thread in _threads(process.name.pid)]
        before, self._before = self._before, {number: switches for number, stopped, switches in seen if stopped}
        return all(stopped and before.get(number) == switches for number, stopped, switches in seen)


def _threads(pid: int) -> list[tuple[int, bool, int]]:
    """Its threads: number, whether it is stopped, and how often it has left a processor."""
    try:
        numbers = [int(entry) for entry in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []
    found = (_thread(pid, number) for number in numbers)
    return [thread for thread in found if thread is not None]


def _thread(pid: int, number: int) -> tuple[int, bool, int] | None:
    """None if it has ended."""
    try:
        with open(f"/proc/{pid}/task/{number}/status", "rb", buffering=0) as stream:
            text = stream.read(_BUFFER_BYTES)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if not text:
        return None
    fields = dict(line.partition(b":")[::2] for line in text.splitlines())
    state = fields[b"State"].strip()[:1]
    if state in (b"Z", b"X", b"x"):
        return None
    return number, state == _STOPPED, sum(int(fields[name]) for name in _SWITCHES)
