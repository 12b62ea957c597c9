"""Looks for the marks of guests in a thread of its own.

A mark lies in its process's memory, and reading that may wait for as long as the process does: on frozen storage, for
ever. A search that never ends costs the guard nothing but this one way of finding a guest's processes.
"""

from __future__ import annotations

import _thread
import os
from dataclasses import dataclass

from etcdlock.guard import table
from etcdlock.guard.table import Name

_STACK_BYTES = 256 * 1024       # all of it is locked into memory


@dataclass(frozen=True, slots=True)
class Found:
    """Who carries the mark of which leader; None if the kernel could not tell."""

    leaders: frozenset[Name]
    marked: dict[Name, frozenset[Name]] | None


class Search:
    """At most one search at a time. `descriptor` becomes readable when it is done; then `take` what it found."""

    def __init__(self) -> None:
        _thread.stack_size(_STACK_BYTES)
        self.descriptor, self._done = os.pipe()
        self._asked: frozenset[Name] = frozenset()
        self._found: Found | None = None
        self._is_under_way = False

    def ask(self, leader: Name, /) -> None:
        """Search for this leader's mark, beginning no earlier than now."""
        self._asked |= {leader}
        self._begin()

    def take(self) -> Found | None:
        """What was found; begins with what was asked for meanwhile."""
        os.read(self.descriptor, 1)
        found, self._found, self._is_under_way = self._found, None, False
        self._begin()
        return found

    def _begin(self) -> None:
        if self._is_under_way or not self._asked:
            return
        leaders, self._asked = self._asked, frozenset()
        self._is_under_way = True
        try:
            _thread.start_new_thread(self._run, (leaders,))
        except RuntimeError:    # no thread to be had: answer like a kernel that cannot tell
            self._finish(Found(leaders, None))

    def _run(self, leaders: frozenset[Name]) -> None:
        try:
            found = Found(leaders, table.marks(table.read_table(), leaders=leaders))
        except (OSError, MemoryError):
            found = Found(leaders, None)
        self._finish(found)

    def _finish(self, found: Found) -> None:
        self._found = found
        os.write(self._done, b".")
