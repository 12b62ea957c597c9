"""A whole etcd in memory, shared by the stores of several hosts: keys, leases on virtual time, faults and a history.

It behaves as etcd 3.4 and 3.5 do, which the contract suite holds it to, and it can be made to do what they were seen to
do wrong: revoke a lease that was renewed a moment ago, answer keepalives without renewing, answer reads from the past,
lose watch events. Transactions are always what they should be. It must be used inside `run_virtual`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from etcdlock.errors import Rejected
from etcdlock.ports import KeyRange, KeyValue, Lease, Snapshot, Txn, TxnResult
from etcdlock.testing.bell import Bell
from etcdlock.testing.faults import Applied, Entry, LeaseEnd, LeaseEnded
from etcdlock.testing.leases import LeaseTable, Renewal
from etcdlock.testing.mvcc import Change, Mvcc
from etcdlock.testing.store import FakeStore

EVERYTHING = KeyRange("", prefix=True)


def steady(seconds: float) -> Callable[[], float]:
    """The same delay every time; hand in a seeded random source instead to vary it."""
    return lambda: seconds


USUAL_LATENCY = steady(0.0005)
USUAL_EXPIRY_DELAY = steady(0.5)


class FakeEtcd:
    """The database.

    `latency_seconds` is drawn for each message, one way; `expiry_delay_seconds` for each term of a lease: how long
    after its TTL etcd ends it, at most 1 s. `keep_alives_lie`, which may be set at any moment, makes keepalives succeed
    without renewing anything.
    """

    def __init__(
        self,
        *,
        latency_seconds: Callable[[], float] = USUAL_LATENCY,
        expiry_delay_seconds: Callable[[], float] = USUAL_EXPIRY_DELAY,
        min_ttl_seconds: int = 2,
        max_txn_ops: int = 128,
        try_timeout_seconds: float = 1.5,
    ) -> None:
        self.latency_seconds = latency_seconds
        self.max_txn_ops = max_txn_ops
        self.try_timeout_seconds = try_timeout_seconds
        self.keep_alives_lie = False
        self.changed = Bell()
        self.listeners: list[Callable[[Entry], None]] = []
        """Told of every entry of the history at once, so that a test can let something happen just then."""
        self._mvcc = Mvcc()
        self._leases = LeaseTable(min_ttl_seconds=min_ttl_seconds, expiry_delay_seconds=expiry_delay_seconds)
        self._history: list[Entry] = []
        self._numbers = 0
        self._stale_reads = 0
        self._stale_by = 0
        self._events_to_lose = 0
        self._lost_events: set[Change] = set()

    def client(self, name: str) -> FakeStore:
        """The store of one host, with faults of its own."""
        return FakeStore(self, name)

    # What an observer outside sees.

    @property
    def revision(self) -> int:
        return self._mvcc.revision

    @property
    def compacted(self) -> int:
        return self._mvcc.compacted

    @property
    def history(self) -> Sequence[Entry]:
        """Everything that happened to transactions and leases, in order; not a copy."""
        return self._history

    def contents(self, where: KeyRange = EVERYTHING) -> tuple[KeyValue, ...]:
        """What is stored at this instant."""
        return self._mvcc.find(where)

    def changes(self, *, from_revision: int = 0) -> Sequence[Change]:
        """Every change of every key, in order."""
        return self._mvcc.changes_from(from_revision)

    # Faults of the whole database.

    def revoke_wrongly(self, lease: int) -> None:
        """End a lease however lately it was renewed, as etcd does after a stalled leader came back."""
        self._end_lease(lease, LeaseEnd.REVOKED_WRONGLY)

    def grant_at_least(self, ttl_seconds: int) -> None:
        """Leases are granted for no less than that, as etcd does: one and a half of its election timeouts."""
        self._leases.grant_at_least(ttl_seconds)

    def stale_reads(self, count: int, *, revisions: int = 1) -> None:
        """Answer the next reads from so many revisions ago."""
        self._stale_reads, self._stale_by = count, revisions

    def lose_events(self, count: int) -> None:
        """No watch will ever see the next so many changes."""
        self._events_to_lose = count

    def restart_leases(self) -> None:
        """Every TTL begins anew, as when another leader is elected."""
        self._leases.restart_all(now=_now())

    def restore(self, revision: int, *, bump: int = 0, ttl_seconds: int = 10) -> None:
        """Come back from a backup taken at `revision`: what was done since is gone, and its leases live once more.

        `history` keeps what was done: it is the observer's, not etcd's.
        """
        self._mvcc.restore(revision, bump=bump)
        for lease in {stored.lease for stored in self.contents() if stored.lease}:
            self._leases.revive(lease, ttl_seconds=ttl_seconds, now=_now())
            self._expire_in_time(lease)
        self.changed.ring()

    def compact(self, revision: int) -> None:
        """Forget the history before this revision; raises `Rejected` where etcd refuses."""
        self._mvcc.compact(revision)
        self.changed.ring()

    # What the stores ask, at the instant their request arrives.

    def next_number(self) -> int:
        """Names one transaction in the history."""
        self._numbers += 1
        return self._numbers

    def record(self, entry: Entry) -> None:
        self._history.append(entry)
        for listener in tuple(self.listeners):
            listener(entry)

    def apply(self, txns: Sequence[Txn], *, client: str, numbers: Sequence[int]) -> tuple[TxnResult, ...]:
        """One request: a transaction, or several nested. In the history each of them is one of its own."""
        before = self.revision
        try:
            results = self._mvcc.apply(txns, lease_lives=self._leases.lives)
        except Rejected:
            for number, txn in zip(numbers, txns, strict=True):
                self.record(Applied(_now(), client, number, txn, None))
            raise
        for number, txn, result in zip(numbers, txns, results, strict=True):
            self.record(Applied(_now(), client, number, txn, result))
        self._announce(before)
        return results

    def read(self, where: KeyRange) -> Snapshot:
        if not where.key:
            raise Rejected("a key is empty")
        if self._stale_reads <= 0:
            return Snapshot(self.revision, self._mvcc.find(where))
        self._stale_reads -= 1
        revision = max(self.revision - self._stale_by, self.compacted, 1)
        return Snapshot(revision, self._mvcc.find_at(where, revision=revision))

    def grant(self, ttl_seconds: int) -> Lease:
        lease = self._leases.grant(ttl_seconds, now=_now())
        self._expire_in_time(lease.id)
        return lease

    def renew(self, lease: int) -> Renewal:
        if self.keep_alives_lie and (ttl_seconds := self._leases.ttl_seconds(lease)):
            return Renewal(ttl_seconds)
        return self._leases.renew(lease, now=_now())

    def revoke(self, lease: int) -> None:
        self._end_lease(lease, LeaseEnd.REVOKED)

    def visible_changes(self, *, from_revision: int) -> list[Change]:
        """What a watch from that revision on is told.

        A deletion at exactly the compacted revision is not: etcd drops it, although it takes a watch from there.
        """
        return [
            change
            for change in self._mvcc.changes_from(from_revision)
            if change not in self._lost_events and (change.stored or change.revision != self.compacted)
        ]

    def _expire_in_time(self, lease: int) -> None:
        ends_at = self._leases.ends_at(lease)
        if ends_at is None:
            return
        if _now() >= ends_at:
            self._end_lease(lease, LeaseEnd.EXPIRED)
        else:
            asyncio.get_running_loop().call_at(ends_at, self._expire_in_time, lease)

    def _end_lease(self, lease: int, why: LeaseEnd) -> None:
        if not self._leases.end(lease):
            return
        before = self.revision
        self._mvcc.drop(self._mvcc.keys_on(lease))
        self.record(LeaseEnded(_now(), lease, why, self.revision))
        self._announce(before)

    def _announce(self, before: int) -> None:
        if self.revision == before:
            return
        lost = self._mvcc.changes_from(before + 1)[: self._events_to_lose]
        self._events_to_lose -= len(lost)
        self._lost_events.update(lost)
        self.changed.ring()


def _now() -> float:
    return asyncio.get_running_loop().time()
