"""Paths named beside the event loop, and never longer than a bound: a disk that does not answer holds up nobody else.

Guaranteed: whoever asks is answered within `within_seconds`. What is asked for together is looked at in one thread; a
dead file server costs one for each such question that leads to it, however often it is repeated, up to `MOST_LOOKS`;
then nothing more is looked at until one of them comes back. A look that has begun cannot be broken off: its thread ends
when the storage answers, or with this program.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from etcdlock.errors import NotIdentified
from etcdlock.identity import Identified, Naming, ResourceName, escaped
from etcdlock.journal import note

WITHIN_SECONDS = 4.0
MOST_LOOKS = 64
_MOST_REMEMBERED = 10_000


@dataclass(slots=True)
class _Look:
    """Paths that are being looked at, for all who ask for the same."""

    ended: threading.Event = field(default_factory=threading.Event)
    found: tuple[Identified, ...] = ()
    error: Exception | None = None
    waiting: list[Callable[[], object]] = field(default_factory=list)


class Namer:
    """Names paths by a cluster's rule. Rules that look at nothing are asked at once."""

    def __init__(self, naming: Naming, /, *, within_seconds: float = WITHIN_SECONDS) -> None:
        self._naming = naming
        self._within_seconds = within_seconds
        self._looks: dict[tuple[str, ...], _Look] = {}
        self._lock = threading.Lock()
        self._warned: set[str] = set()

    @property
    def looks(self) -> bool:
        """Whether a name depends on what is found, and finding it may take long."""
        return self._naming.looks

    async def name(self, path: str, /) -> ResourceName:
        """Raises `InvalidInput`, and `NotIdentified` also where there was no answer in time."""
        return (await self.names((path,)))[path]

    async def names(self, paths: Sequence[str], /) -> dict[str, ResourceName]:
        """The name of each; all or an error, as above."""
        wanted = tuple(dict.fromkeys(paths))
        if not self._naming.looks or not wanted:
            return _by_path(wanted, self._naming.identified(wanted))
        look, arrived = self._begin(wanted), asyncio.Event()
        loop = asyncio.get_running_loop()
        self._tell(look, lambda: loop.call_soon_threadsafe(arrived.set))
        try:
            await asyncio.wait_for(arrived.wait(), self._within_seconds)
        except TimeoutError:
            raise self._too_late(wanted) from None
        found = _outcome(look)
        for path, one in zip(wanted, found, strict=True):
            self._warn_once(path, one)
        return _by_path(wanted, found)

    def identified(self, paths: Sequence[str], /) -> tuple[Identified, ...]:
        """The same, with its reasons, for a program that has nothing else to do meanwhile."""
        wanted = tuple(paths)
        if not self._naming.looks or not wanted:
            return self._naming.identified(wanted)
        look = self._begin(wanted)
        if not look.ended.wait(self._within_seconds):
            raise self._too_late(wanted)
        return _outcome(look)

    def _too_late(self, paths: tuple[str, ...], /) -> NotIdentified:
        shown = ", ".join(f"'{escaped(path)}'" for path in paths[:3]) + (" and others" if len(paths) > 3 else "")
        return NotIdentified(
            f"{shown} did not let itself be looked at within {self._within_seconds:g} s",
            hint="see whether its file server or storage answers; then try again",
        )

    def _warn_once(self, path: str, found: Identified, /) -> None:
        if not found.warning or path in self._warned:
            return
        if len(self._warned) >= _MOST_REMEMBERED:
            self._warned.clear()
        self._warned.add(path)
        note("disk_named", level=logging.WARNING, path=path, name=found.name, warning=found.warning)

    # --- looking ---------------------------------------------------------------------------------------------------

    def _begin(self, paths: tuple[str, ...], /) -> _Look:
        with self._lock:
            under_way = self._looks.get(paths)
            if under_way is not None:
                return under_way
            if len(self._looks) >= MOST_LOOKS:
                stuck = next(iter(self._looks))[0]
                raise NotIdentified(
                    f"'{escaped(paths[0])}' cannot be looked at: {MOST_LOOKS} disks do not answer, '{escaped(stuck)}'"
                    " among them",
                    hint="see to their file server or storage",
                )
            look = self._looks[paths] = _Look()
        threading.Thread(target=self._see, args=(paths, look), name="disk-look", daemon=True).start()
        return look

    def _see(self, paths: tuple[str, ...], look: _Look, /) -> None:
        try:
            look.found = self._naming.identified(paths)
        except Exception as error:  # noqa: BLE001 - it is raised again to whoever has asked
            look.error = error
        with self._lock:
            del self._looks[paths]
            look.ended.set()
            waiting = tuple(look.waiting)
        for tell in waiting:
            try:
                tell()
            except RuntimeError:  # its event loop has ended: nobody waits any more
                continue

    def _tell(self, look: _Look, tell: Callable[[], object], /) -> None:
        with self._lock:
            if look.ended.is_set():
                tell()
            else:
                look.waiting.append(tell)


def _outcome(look: _Look, /) -> tuple[Identified, ...]:
    if look.error is not None:
        raise look.error
    return look.found


def _by_path(paths: Sequence[str], found: Sequence[Identified], /) -> dict[str, ResourceName]:
    return {path: one.name for path, one in zip(paths, found, strict=True)}
