"""Sees every change of a cluster's locks in etcd as it comes, past all faults but those of etcd itself.

What is seen is seen late rather than early: of a proof it is known that it was there when it was seen. So the time from
a guest's end to the proof is never shown larger than it was by more than etcd was away; whether two guests overlapped
is not for this to say but for the disks.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.demo.timeline import now
from etcdlock.errors import WatchCompacted
from etcdlock.keyspace import Keyspace
from etcdlock.model import DomainRecord, Obituary, SessionRef, StoredDomain
from etcdlock.ports import Event, KeyValue
from etcdlock.records import decode_domain, decode_obituary

_END_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Change:
    """Another owner of a domain than before. `before` is None where nobody had it."""

    at: float
    before: StoredDomain | None
    after: StoredDomain

    @property
    def record(self) -> DomainRecord:
        """Of the new owner."""
        return self.after.record


class Witness:
    """Of one cluster, from now on. Closed, it sees no more."""

    def __init__(self, endpoints: Sequence[str], keys: Keyspace) -> None:
        self.obituaries: dict[SessionRef, tuple[float, Obituary]] = {}
        self.changes: list[Change] = []
        self.freed: list[tuple[float, StoredDomain]] = []
        """Locks that were given back, as they stood last, and when."""
        self.locks: dict[UUID, StoredDomain] = {}
        """As they stood last."""
        self.failure: BaseException | None = None
        self._keys = keys
        self._endpoints = tuple(endpoints)
        self._loop = asyncio.new_event_loop()
        self._watching: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Raises what has kept it from seeing."""
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(_END_SECONDS)
        if self.failure is not None:
            raise self.failure

    def takeovers(self) -> list[Change]:
        """Changes of owner by a proof: the one before did not give it."""
        changes = [change for change in self.changes if change.before is not None]
        return [each for each in changes if each.before and each.before.record.owner in self.obituaries]

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._watch())
        except BaseException as failure:  # noqa: BLE001 - told at the end
            self.failure = failure
        finally:
            self._loop.close()

    def _stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        store = EtcdStore(EtcdOptions(self._endpoints))
        self._watching = asyncio.ensure_future(self._follow(store))
        with suppress(asyncio.CancelledError):
            await self._watching
        await store.close()

    async def _follow(self, store: EtcdStore) -> None:
        """Where history was compacted meanwhile, go on with what is there."""
        revision = 0
        while True:
            with suppress(WatchCompacted):
                async for event in store.watch((self._keys.obituaries, self._keys.domains), after_revision=revision):
                    self._see(event)
            found = await store.read(self._keys.domains)
            self.locks = {each.record.domain.uuid: each for each in map(decode_domain, found.found)}
            revision = found.revision

    def _see(self, event: Event) -> None:
        if event.value is None:
            if event.key.startswith(self._keys.domains.key):
                before = self.locks.pop(UUID(event.key.rpartition("/")[2]), None)
                self.freed.extend([(now(), before)] if before else [])
            return
        stored = KeyValue(event.key, event.value, create_revision=0, mod_revision=event.revision)
        if event.key.startswith(self._keys.obituaries.key):
            obituary = decode_obituary(stored)
            self.obituaries.setdefault(obituary.dead, (now(), obituary))
            return
        after = decode_domain(stored)
        uuid = after.record.domain.uuid
        if after.token == event.revision:
            self.changes.append(Change(now(), self.locks.get(uuid), after))
        self.locks[uuid] = after
