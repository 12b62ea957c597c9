"""What the demo sees for itself: etcd's own records, and a guest's process; with the instant at which it saw it.

It asks etcd directly, past the networks that are cut, and believes nothing that the programs say of themselves. What is
seen is seen a little late: a figure between two events is wrong by no more than this process was late for the second.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from etcdlock.demo.stream import Seen, Stream
from etcdlock.demo.timeline import now
from etcdlock.demo.verdict import NotSo
from etcdlock.guard import table
from etcdlock.keyspace import Keyspace
from etcdlock.model import Obituary, SessionRef, StoredDomain
from etcdlock.ports import Event, KeyRange, KeyValue, Store
from etcdlock.records import decode_domain, decode_obituary

T = TypeVar("T")


class Witness:
    """Sees every change in etcd from the first one on."""

    def __init__(self, store: Store, /, *, keys: Keyspace, uuid: UUID) -> None:
        self._store = store
        self._keys = keys
        self._uuid = uuid
        self._events = Stream(store.watch((keys.everything,), after_revision=0))

    async def holder(self, host: str, /, *, after: StoredDomain | None) -> Seen[StoredDomain]:
        """The domain's record once it names a session of `host`, written later than `after`."""
        return await self._domain(lambda stored: stored.record.owner.host == host, after=after)

    async def rewritten(self, before: StoredDomain, /) -> Seen[StoredDomain]:
        """The domain's record once it names another session than before."""
        return await self._domain(lambda stored: stored.record.owner != before.record.owner, after=before)

    async def lock(self) -> StoredDomain:
        """The domain's record as it stands."""
        found = (await self._store.read(KeyRange(self._keys.domain(self._uuid)))).found
        if not found:
            raise NotSo("nobody has the domain's lock")
        return decode_domain(found[0])

    async def obituary(self, dead: SessionRef, /) -> Seen[Obituary]:
        """The proof of a session's end."""
        key = self._keys.obituary(dead)
        return await self._first(
            lambda event: decode_obituary(_stored(event)) if event.key == key and event.value is not None else None
        )

    async def lease_of(self, ref: SessionRef, /) -> int:
        """The lease that a session's key lies on."""
        found = (await self._store.read(KeyRange(self._keys.session(ref)))).found
        if not found:
            raise NotSo(f"session {ref} has no key in etcd")
        return found[0].lease

    async def locks(self) -> tuple[str, ...]:
        """The keys of all sessions and locks that stand."""
        ranges = (self._keys.sessions(), self._keys.domains, self._keys.resources)
        return tuple([item.key for where in ranges for item in (await self._store.read(where)).found])

    async def close(self) -> None:
        """See no more."""
        await self._events.close()

    async def _domain(
        self, is_wanted: Callable[[StoredDomain], bool], /, *, after: StoredDomain | None
    ) -> Seen[StoredDomain]:
        known = after.mod_revision if after else 0

        def wanted(event: Event) -> StoredDomain | None:
            if event.key != self._keys.domain(self._uuid) or event.value is None or event.revision <= known:
                return None
            stored = decode_domain(_stored(event))
            return stored if is_wanted(stored) else None

        return await self._first(wanted)

    async def _first(self, wanted: Callable[[Event], T | None], /) -> Seen[T]:
        seen = await self._events.first(wanted)
        if seen is None:
            raise NotSo("etcd's watch ended")
        return seen


class GuestWitness:
    """Sees the end of one process, by a descriptor that no other process can get."""

    def __init__(self, stored: StoredDomain, /) -> None:
        record = stored.record
        pidfd = table.open_pidfd(table.Name(record.pid, record.pid_start))
        if pidfd is None:
            raise NotSo(f"etcd names process {record.pid} as the guest of {record.owner.host}, and there is none")
        self.pid = record.pid
        self._pidfd: int | None = pidfd
        self._ended_at: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(pidfd, self._end)

    @property
    def runs(self) -> bool:
        """Whether it has not been seen to end."""
        return not self._ended_at.done()

    async def ended_at(self) -> float:
        """When it was gone."""
        return await asyncio.shield(self._ended_at)

    def close(self) -> None:
        """Look no more."""
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _end(self) -> None:
        self._ended_at.set_result(now())
        self.close()


def _stored(event: Event, /) -> KeyValue:
    return KeyValue(event.key, event.value or b"", create_revision=0, mod_revision=event.revision)
