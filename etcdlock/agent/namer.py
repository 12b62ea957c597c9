"""Paths named beside the event loop, within the bounds of `agent.bounded`."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from etcdlock.agent.bounded import WITHIN_SECONDS, Bounded
from etcdlock.identity import Identified, Naming, ResourceName
from etcdlock.journal import note

_MOST_REMEMBERED = 10_000


class Namer:
    """Names paths by a cluster's rule. Rules that look at nothing are asked at once."""

    def __init__(self, naming: Naming, /, *, within_seconds: float = WITHIN_SECONDS) -> None:
        self._naming = naming
        self._looks = Bounded[str, Identified](naming.identified, shown=str, within_seconds=within_seconds)
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
        found = await self._looks.ask(wanted)
        for path, one in zip(wanted, found, strict=True):
            self._warn_once(path, one)
        return _by_path(wanted, found)

    def name_now(self, path: str, /) -> ResourceName:
        """As `name`, for a program that has nothing else to do meanwhile."""
        (found,) = self.identified((path,))
        self._warn_once(path, found)
        return found.name

    def identified(self, paths: Sequence[str], /) -> tuple[Identified, ...]:
        """The same, with its reasons, for a program that has nothing else to do meanwhile and tells of warnings itself.
        """
        wanted = tuple(paths)
        if not self._naming.looks or not wanted:
            return self._naming.identified(wanted)
        return self._looks.ask_now(wanted)

    def _warn_once(self, path: str, found: Identified, /) -> None:
        if not found.warning or path in self._warned:
            return
        if len(self._warned) >= _MOST_REMEMBERED:
            self._warned.clear()
        self._warned.add(path)
        note("disk_named", level=logging.WARNING, path=path, name=found.name, warning=found.warning)


def _by_path(paths: Sequence[str], found: Sequence[Identified], /) -> dict[str, ResourceName]:
    return {path: one.name for path, one in zip(paths, found, strict=True)}
