"""Notes in which run each domain was when a process of its was first heard of.

A process that takes in a migration is there before any of the guest's memory has come. So if its domain has not been
let run again when it asks for the lock, it has the latest memory; if it has, whatever became of that migration, it has
not.

Guaranteed: what is noted was so after the process was there and no later than `LOOK_SECONDS` plus one try. Nothing is
noted where etcd did not answer by then, and nothing outlives this program: who asks is told that it is not known.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from etcdlock.agent.context import Context
from etcdlock.errors import EtcdlockError
from etcdlock.journal import note
from etcdlock.model import Owner
from etcdlock.ports import Get, KeyRange, Txn
from etcdlock.records import decode_domain, decode_first

LOOK_SECONDS = 2.0
"""A look may fail for a moment's want of etcd; one that came much later might find a run that came after."""

Begin = Callable[[Coroutine[Any, Any, None]], object]


@dataclass(slots=True, eq=False)
class Sighting:
    """Of one process; `run` as `HostLedger.claim` takes it."""

    pid: int
    run: str | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Sightings:
    """One for each domain, of the latest process, until its guest may run. `begin` does what it is given beside all
    else.
    """

    def __init__(self, context: Context, /, *, begin: Begin) -> None:
        self._context = context
        self._begin = begin
        self._of: dict[UUID, Sighting] = {}

    def note(self, owner: Owner, /) -> None:
        """The process is there; look in which run its domain is."""
        sighting = self._of[owner.domain.uuid] = Sighting(owner.pid)
        if self._begin(self._look(owner, sighting)) is None:
            sighting.over.set()

    async def run_of(self, owner: Owner, /) -> str | None:
        """What was noted, once the look is over; "" if the domain had no record, None if nothing is known."""
        sighting = self._of.get(owner.domain.uuid)
        if sighting is None or sighting.pid != owner.pid:
            return None
        await sighting.over.wait()
        return sighting.run

    def forget(self, owner: Owner, /) -> None:
        """Its guest may run: from now on the lock tells."""
        self._of.pop(owner.domain.uuid, None)

    async def _look(self, owner: Owner, sighting: Sighting, /) -> None:
        reads = Txn((), (Get(KeyRange(self._context.keys.domain(owner.domain.uuid))),))
        try:
            async for attempt in self._context.patiently(until=self._context.clock.now() + LOOK_SECONDS):
                with attempt:
                    found = decode_first((await self._context.look(reads)).replies[0], decode_domain)
            sighting.run = found.record.run if found is not None else ""
        except EtcdlockError as error:
            note("run_not_noted", level=logging.WARNING, domain=owner.domain, pid=owner.pid, error=error)
        finally:
            sighting.over.set()
