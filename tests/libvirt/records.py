"""What etcd says of the locks of a cluster, now and since an earlier revision."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from etcdlock.adapters.etcd import EtcdStore
from etcdlock.adapters.etcd_options import EtcdOptions
from etcdlock.keyspace import Keyspace
from etcdlock.model import LockState, SessionRef, StoredDomain
from etcdlock.ports import Event, KeyRange, KeyValue, Put, Snapshot, Txn
from etcdlock.records import decode_domain, decode_resource, decode_session

KEYS = Keyspace()
_END = "/end-of-history"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Records:
    """Reads an etcd at `endpoints`. Every call is a client of its own, so it may be used from anywhere."""

    endpoints: tuple[str, ...]

    def revision(self) -> int:
        """The latest of the store."""
        return _ask(self, _snapshot).revision

    def locks(self) -> dict[str, StoredDomain]:
        """The domains' locks by name; fails if a disk's key and its domain's record contradict each other."""
        found = _ask(self, _snapshot).found
        domains = [decode_domain(each) for each in _under(KEYS.domains, found)]
        listed = {(each.record.domain.uuid, held) for each in domains for held in each.record.resources}
        resources = [decode_resource(each).record for each in _under(KEYS.resources, found)]
        assert {(each.domain.uuid, each.resource) for each in resources} == listed
        return {each.record.domain.name: each for each in domains}

    def sessions(self) -> set[SessionRef]:
        """Those that live."""
        return {decode_session(each).ref for each in _under(KEYS.sessions(), _ask(self, _snapshot).found)}

    def session_lease(self, host: str, /) -> int | None:
        """The lease of the host's session; None if it has none now."""
        found = _under(KEYS.sessions(host), _ask(self, _snapshot).found)
        return found[-1].lease if found else None

    def revoke(self, lease: int, /) -> None:
        """As an operator's `etcdctl lease revoke` does."""
        _ask(self, lambda store: store.revoke(lease))

    def history(self, *, after: int) -> tuple[Event, ...]:
        """Every change of a domain or a disk since that revision, up to now."""
        return _ask(self, lambda store: _until_now(store, after=after))


def ownerships(events: Sequence[Event], /) -> list[tuple[str, LockState, int]]:
    """Host, state and token after each change of a domain's lock; fails if a domain or a disk was ever given up."""
    given_up = [event.key for event in events if event.value is None]
    assert not given_up, f"not held at times: {given_up}"
    stored = [
        decode_domain(KeyValue(event.key, event.value or b"", event.revision, event.revision))
        for event in events
        if event.key.startswith(KEYS.domains.key)
    ]
    return [(each.record.owner.host, each.record.state, each.token) for each in stored]


def _ask(records: Records, question: Callable[[EtcdStore], Awaitable[T]], /) -> T:
    async def ask() -> T:
        store = EtcdStore(EtcdOptions(endpoints=records.endpoints))
        try:
            return await question(store)
        finally:
            await store.close()

    return asyncio.run(ask())


async def _snapshot(store: EtcdStore, /) -> Snapshot:
    return await store.read(KEYS.everything)


async def _until_now(store: EtcdStore, /, *, after: int) -> tuple[Event, ...]:
    await store.txn(Txn((), (Put(_END, b""),)))
    events = store.watch([KEYS.domains, KEYS.resources, KeyRange(_END)], after_revision=after)
    seen = []
    async for event in events:
        if event.key == _END:
            break
        seen.append(event)
    await events.aclose()
    return tuple(seen)


def _under(where: KeyRange, found: Sequence[KeyValue], /) -> list[KeyValue]:
    return [each for each in found if each.key.startswith(where.key)]
