"""The keys of an etcd with their revisions: transactions, reads, history and compaction, all at one instant.

Behaves as etcd 3.4 and 3.5 do, which the contract suite holds it to. It knows no time, no client and no fault; leases
are a number on a key.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter

from etcdlock.errors import Rejected
from etcdlock.ports import Compare, Delete, Get, KeyRange, KeyValue, Op, Put, Relation, Target, Txn, TxnResult

# etcd's --max-request-bytes; it counts the encoded request, this counts keys and values.
MAX_REQUEST_BYTES = 1_572_864


@dataclass(frozen=True, slots=True)
class Change:
    """One key changed by one revision; `stored` is None where it was deleted."""

    revision: int
    key: str
    stored: KeyValue | None


def covers(where: KeyRange, key: str) -> bool:
    """Whether the key lies in the range."""
    return key.startswith(where.key) if where.prefix else key == where.key


class Mvcc:
    """A key space that remembers every revision of every key."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 0
        self._live: dict[str, KeyValue] = {}
        self._order: list[str] = []
        self._changes: list[Change] = []

    def apply(self, txns: Sequence[Txn], *, lease_lives: Callable[[int], bool]) -> tuple[TxnResult, ...]:
        """Do one transaction, or several nested in one request, as one step with one revision.

        Every compare of the request is judged before anything of it is written. Raises `Rejected` where etcd refuses
        the form or a lease: then nothing was done.
        """
        _check_form(txns)
        verdicts = [all(self._holds(compare) for compare in txn.compare) for txn in txns]
        branches = [txn.success if holds else txn.failure for txn, holds in zip(txns, verdicts, strict=True)]
        for op in chain.from_iterable(branches):
            # As in etcd, only the leases of the branch that runs are looked at.
            if isinstance(op, Put) and op.lease and not lease_lives(op.lease):
                raise Rejected(f"lease {op.lease:x} of key {op.key!r} is not known")
        known = len(self._changes)
        replies = [tuple(self._perform(op) for op in branch) for branch in branches]
        self._commit(known)
        return tuple(TxnResult(holds, self.revision, found) for holds, found in zip(verdicts, replies, strict=True))

    def drop(self, keys: Iterable[str]) -> None:
        """Delete keys as one revision; none if there is nothing to delete."""
        known = len(self._changes)
        for key in keys:
            self._delete(KeyRange(key))
        self._commit(known)

    def find(self, where: KeyRange) -> tuple[KeyValue, ...]:
        """What lies in the range now, in key order."""
        return tuple(self._live[key] for key in self._keys_in(where))

    def find_at(self, where: KeyRange, *, revision: int) -> tuple[KeyValue, ...]:
        """What lay in the range at an earlier revision, in key order."""
        then: dict[str, KeyValue | None] = {}
        for change in self._changes[: bisect_right(self._changes, revision, key=attrgetter("revision"))]:
            then[change.key] = change.stored
        return tuple(stored for key, stored in sorted(then.items()) if stored is not None and covers(where, key))

    def keys_on(self, lease: int) -> tuple[str, ...]:
        """The keys that die with the lease."""
        return tuple(key for key in self._order if self._live[key].lease == lease)

    def changes_from(self, revision: int) -> list[Change]:
        """History from this revision on, in the order it happened, compacted or not."""
        return self._changes[bisect_left(self._changes, revision, key=attrgetter("revision")) :]

    def restore(self, revision: int, *, bump: int) -> None:
        """Be again what was there at `revision`, and go on from `bump` revisions later."""
        self._live = {stored.key: stored for stored in self.find_at(KeyRange("", prefix=True), revision=revision)}
        self._order = sorted(self._live)
        self._changes = [change for change in self._changes if change.revision <= revision]
        self.revision = revision + bump

    def compact(self, revision: int) -> None:
        """Watches from before this revision are refused from now on."""
        if not self.compacted < revision <= self.revision:
            raise Rejected(f"cannot compact at {revision}: compacted at {self.compacted}, now {self.revision}")
        self.compacted = revision

    def _commit(self, known: int) -> None:
        if len(self._changes) > known:
            self.revision += 1

    def _holds(self, compare: Compare) -> bool:
        found = self.find(compare.where)
        numbers = [_number(stored, compare.target) for stored in found] or [0]
        return all(_relates(number, compare.relation, compare.number) for number in numbers)

    def _perform(self, op: Op) -> tuple[KeyValue, ...]:
        match op:
            case Put():
                self._put(op)
            case Delete():
                self._delete(op.where)
            case Get():
                return self.find(op.where)
        return ()

    def _put(self, put: Put) -> None:
        revision, before = self.revision + 1, self._live.get(put.key)
        created = before.create_revision if before else revision
        stored = KeyValue(put.key, put.value, created, revision, put.lease)
        if before is None:
            insort(self._order, put.key)
        self._live[put.key] = stored
        self._changes.append(Change(revision, put.key, stored))

    def _delete(self, where: KeyRange) -> None:
        for key in self._keys_in(where):
            del self._live[key]
            del self._order[bisect_left(self._order, key)]
            self._changes.append(Change(self.revision + 1, key, None))

    def _keys_in(self, where: KeyRange) -> list[str]:
        if not where.prefix:
            return [where.key] if where.key in self._live else []
        start = end = bisect_left(self._order, where.key)
        while end < len(self._order) and self._order[end].startswith(where.key):
            end += 1
        return self._order[start:end]


def _number(stored: KeyValue, target: Target) -> int:
    return stored.create_revision if target is Target.CREATE_REVISION else stored.mod_revision


def _relates(number: int, relation: Relation, given: int) -> bool:
    match relation:
        case Relation.EQUAL:
            return number == given
        case Relation.LESS:
            return number < given
        case Relation.GREATER:
            return number > given


def _check_form(txns: Sequence[Txn]) -> None:
    """What etcd refuses before it looks at a single key. Both branches count, whichever would run."""
    compares = chain.from_iterable(txn.compare for txn in txns)
    ops = [op for txn in txns for op in (*txn.success, *txn.failure)]
    for where in (*(compare.where for compare in compares), *map(_range_of, ops)):
        if not where.key:
            raise Rejected("a key is empty")
    puts = [op for op in ops if isinstance(op, Put)]
    if sum(len(put.key.encode()) + len(put.value) for put in puts) > MAX_REQUEST_BYTES:
        raise Rejected(f"the request is larger than {MAX_REQUEST_BYTES} bytes")
    for txn in txns:
        _check_written_once(txn.success)
        _check_written_once(txn.failure)
    _check_written_by_one(txns)


def _check_written_once(branch: tuple[Op, ...]) -> None:
    """No key is put twice, nor put and deleted in whatever order. It may be deleted twice."""
    deleted = [op.where for op in branch if isinstance(op, Delete)]
    seen: set[str] = set()
    for op in branch:
        if isinstance(op, Put):
            if op.key in seen or any(covers(where, op.key) for where in deleted):
                raise Rejected(f"key {op.key!r} is written twice in one transaction")
            seen.add(op.key)


def _check_written_by_one(txns: Sequence[Txn]) -> None:
    """No key that one of them puts was put or deleted by one before it; etcd lets a deletion after a put pass."""
    taken: set[str] = set()
    deleted: list[KeyRange] = []
    for txn in txns:
        ops = (*txn.success, *txn.failure)
        keys = {op.key for op in ops if isinstance(op, Put)}
        for key in keys:
            if key in taken or any(covers(where, key) for where in deleted):
                raise Rejected(f"key {key!r} is written by two transactions of one request")
        taken |= keys
        deleted += [op.where for op in ops if isinstance(op, Delete)]


def _range_of(op: Op) -> KeyRange:
    return KeyRange(op.key) if isinstance(op, Put) else op.where
