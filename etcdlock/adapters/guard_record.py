"""Which guards an agent has started, kept in a file that the next agent reads.

A guard outlives its agent and stops the guests at their deadline. An agent that is started before then arms every guest
with a guard of its own, and only then ends the earlier one. Whoever wrote the file may be dead: a guard is named by pid
and start time, and nothing but that very process is ended.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from etcdlock.errors import InvalidSetting
from etcdlock.guard import table
from etcdlock.journal import note

FILE = "guards"


class GuardRecord:
    """The guards of this host's agents, in `folder`. One agent at a time may use it."""

    def __init__(self, folder: str, /) -> None:
        self._path = Path(folder) / FILE
        self._earlier = self._read()
        self._mine: list[table.Name] = []

    def add(self, pid: int, /) -> None:
        """A guard has been started. It is written down before anything is armed there."""
        process = table.look_up(pid)
        if process is not None:
            self._mine.append(process.name)
            self._write([*self._earlier, *self._mine])

    def end_earlier(self) -> None:
        """End the guards of earlier agents: every guest is armed with one of ours."""
        for name in self._earlier:
            if _end(name):
                note("earlier_guard_ended", pid=name.pid)
        self._earlier = []
        self._write(self._mine)

    def _read(self) -> list[table.Name]:
        try:
            lines = self._path.read_text(encoding="ascii").split()
            return [table.Name(int(pid), int(start)) for pid, _, start in (line.partition(":") for line in lines)]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise InvalidSetting(
                f"run_folder: {self._path}: {error}",
                hint="it names the guards that earlier agents have left; end them by hand, then delete it",
            ) from error

    def _write(self, names: list[table.Name]) -> None:
        """Whole or not at all."""
        draft = self._path.with_suffix(".new")
        draft.write_text("".join(f"{name}\n" for name in names), encoding="ascii")
        draft.replace(self._path)


def _end(name: table.Name) -> bool:
    pidfd = table.open_pidfd(name)
    if pidfd is None:
        return False
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True
