"""Which guards an agent has started, kept in a file that the next agent reads.

A guard outlives its agent and stops the guests at their deadline. An agent that is started before then arms every guest
with a guard of its own, and only then ends the earlier one. Whoever wrote the file may be dead: a guard is named by pid
and start time, and nothing but that very process is ended.

It is asked to, since it may still be stopping a guest: then it stays until that is gone, and so does its hold on the
watchdog, which resets the host if the guest does not die. One that does not answer in that time is killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from etcdlock.errors import InvalidSetting
from etcdlock.guard import handle, table
from etcdlock.journal import note
from etcdlock.ports import GuestName

FILE = "guards"
YIELD_WITHIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Kept:
    """A guard, and the timeout of its host's watchdog; 0 where the host has none. Where it has one, `watches` says
    whether this guard could open it from its start.
    """

    name: table.Name
    watchdog_seconds: float = 0.0
    watches: bool = True


class GuardRecord:
    """The guards of this host's agents, in `folder`. One agent at a time may use it."""

    def __init__(self, folder: str, /) -> None:
        self._path = Path(folder) / FILE
        self._earlier = self._read()
        self._mine: list[Kept] = []

    @property
    def earlier(self) -> tuple[Kept, ...]:
        """Those of earlier agents, whether they live or not."""
        return tuple(self._earlier)

    @property
    def earlier_watchdog_seconds(self) -> float:
        """The timeout of the watchdog by which earlier agents went; 0 if there was none."""
        return max((kept.watchdog_seconds for kept in self._earlier), default=0.0)

    @property
    def earlier_watches(self) -> tuple[tuple[bool, bool], ...]:
        """Of each earlier guard of a host with a watchdog: whether it lives, and could open it from its start."""
        return tuple((_lives(kept.name), kept.watches) for kept in self._earlier if kept.watchdog_seconds)

    def add(self, pid: int, /, *, watchdog_seconds: float = 0.0, watches: bool = True) -> None:
        """A guard has been started. It is written down before anything is armed there."""
        process = table.look_up(pid)
        if process is not None:
            self._mine.append(Kept(process.name, watchdog_seconds, watches))
            self._write([*self._earlier, *self._mine])

    async def end_earlier(self, *, ours: frozenset[GuestName]) -> None:
        """End the guards of earlier agents: our guests are armed with one of ours. None lives when this returns.

        What they have frozen and is not ours has lost its lock meanwhile: it is killed, since nobody would watch it.
        """
        for kept in self._earlier:
            _kill_frozen_strangers(kept.name, ours=ours)
        await asyncio.gather(*(_end(kept) for kept in self._earlier))
        self._earlier = []
        self._write(self._mine)

    def _read(self) -> list[Kept]:
        try:
            return [_parse(line) for line in self._path.read_text(encoding="ascii").split()]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise InvalidSetting(
                f"run_folder: {self._path}: {error}",
                hint="it names the guards that earlier agents have left; end them by hand, then delete it",
            ) from error

    def _write(self, guards: list[Kept]) -> None:
        """Whole or not at all."""
        draft = self._path.with_suffix(".new")
        lines = (f"{kept.name}:{kept.watchdog_seconds!r}:{kept.watches:d}\n" for kept in guards)
        draft.write_text("".join(lines), encoding="ascii")
        draft.replace(self._path)


def guards_alive(folder: str, /) -> tuple[int, ...]:
    """The pids of the guards in the record of that folder that live. Raises `InvalidSetting`."""
    return tuple(kept.name.pid for kept in GuardRecord(folder).earlier if _lives(kept.name))


def _parse(line: str) -> Kept:
    pid, start, *more = line.split(":")
    return Kept(table.Name(int(pid), int(start)), float(more[0]) if more else 0.0, more[1:] != ["0"])


def _lives(name: table.Name) -> bool:
    process = table.look_up(name.pid)
    return process is not None and process.alive and process.name == name


def _kill_frozen_strangers(guard: table.Name, *, ours: frozenset[GuestName]) -> None:
    for pid in _guarded_by(guard):
        process = table.look_up(pid)
        if process is not None and process.stopped and (pid, process.name.start) not in ours:
            note("superseded", level=logging.ERROR, pid=pid)
            table.send(process.name, number=signal.SIGKILL)


def _guarded_by(guard: table.Name) -> set[int]:
    """The living processes of which it has a pidfd, as the kernel tells."""
    if not _lives(guard):
        return set()
    texts = [_text(entry) for entry in Path(f"/proc/{guard.pid}/fdinfo").iterdir()]
    found = (line.split()[1] for text in texts for line in text.splitlines() if line.startswith("Pid:"))
    return {int(pid) for pid in found if int(pid) > 0}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except OSError:     # closed meanwhile
        return ""


async def _end(kept: Kept) -> None:
    """Ask it to give way; one that still stops a guest, or hangs, has as long as its watchdog would need."""
    pidfd = table.open_pidfd(kept.name)
    if pidfd is None:
        return
    try:
        for number in (signal.SIGUSR2, signal.SIGKILL):
            handle.send(pidfd, number)
            if await _has_ended(pidfd, within_seconds=YIELD_WITHIN_SECONDS + kept.watchdog_seconds):
                break
        note("earlier_guard_ended", pid=kept.name.pid)
    finally:
        os.close(pidfd)


async def _has_ended(pidfd: int, *, within_seconds: float) -> bool:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(within_seconds):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True
