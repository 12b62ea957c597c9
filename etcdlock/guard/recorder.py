"""The guard's own record of what it does, written before it is done: a ring of lines in a file of memory.

The file lies on tmpfs, all of it there beforehand, so that a line costs no more than a copy: no disk, no system call.
It outlives the guard, and whoever comes next reads it; the guard holds a lock on it for as long as it lives. Times are
wall clock, for people.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from contextlib import suppress

from etcdlock.escalation import Stage
from etcdlock.guard.instant import Reading
from etcdlock.guard.rules import Tick
from etcdlock.guard.table import Name

SLOTS = 256
SLOT_BYTES = 192
SIZE = SLOTS * SLOT_BYTES
END = b" .\n"
"""Behind every whole line."""
ENTERED = (
    (Stage.STOPPING, "guard_strikes"),
    (Stage.FREEZING, "guard_freezes"),
    (Stage.FROZEN, "guard_has_frozen"),
    (Stage.COMMANDED, "guard_runs_command"),
)


class Recorder:
    """At `path`, nowhere if that is empty or cannot be had: a guard does without."""

    def __init__(self, path: str) -> None:
        self._pages: mmap.mmap | None = None
        self._written = 0
        if not path:
            return
        with suppress(OSError, ValueError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)      # never closed
            os.posix_fallocate(descriptor, 0, SIZE)
            self._pages = mmap.mmap(descriptor, SIZE)

    def note(self, due: Tick, *, now: Reading) -> None:
        """What is about to be done for the first time."""
        if self._pages is None:
            return
        for stage, event in ENTERED:
            for name in due.entered(stage):
                self._add(event, name, due, now)
        for name in due.stuck:
            self._add("guard_finds_stuck", name, due, now)

    def _add(self, event: str, name: Name, due: Tick, now: Reading) -> None:
        """The last number is how many seconds ago the guest's session was proven."""
        armed = due.state.guests[name]
        late = now.steady_seconds - armed.due.steady_seconds if armed.due else 0.0
        ago = late + due.state.limits.stop_after_seconds
        words = f"{self._written} {time.time():.3f} {event} {name} {ago:.3f} {armed.session}"
        line = words.encode(errors="replace")[: SLOT_BYTES - len(END)].ljust(SLOT_BYTES - len(END)) + END
        start = self._written % SLOTS * SLOT_BYTES
        if self._pages is not None:
            self._pages[start : start + SLOT_BYTES] = line
        self._written += 1
