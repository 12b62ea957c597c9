"""Which transactions may travel in one request to etcd; pure.

etcd judges every compare of a request, those of nested transactions included, before it writes anything for any of
them. Two transactions of which one writes what the other compares would both be judged by the state before either, and
both could win. So no transaction shares a request with one that writes what it compares, reads or writes.

Two that share a request are therefore independent: each is answered as if it had been sent alone, in whatever order.
A prefix that does not end in a slash counts as its whole folder: too much keeps two apart that might have shared,
which is never wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Final, NamedTuple

from etcdlock.ports import Get, KeyRange, Op, Put, Txn

MOST_BYTES: Final = 1_000_000
"""Of keys and values in a shared request; etcd takes 1.5 MiB of everything, unless told otherwise."""

_MOST_OPEN: Final = 4
"""How many requests that are not full are looked through for room, so that sharing out takes time in proportion."""


def share_out(txns: Sequence[Txn], /, *, max_txn_ops: int) -> tuple[tuple[int, ...], ...]:
    """The transactions by their numbers, one tuple for each request; who has waited longest is in the first.

    One that shares with nobody is alone in its tuple, however large it is.
    """
    requests: list[_Request] = []
    for number, txn in enumerate(txns):
        footprint = _Footprint(txn)
        for request in requests[-_MOST_OPEN:]:
            if request.has_room(footprint, max_txn_ops=max_txn_ops):
                break
        else:
            request = _Request()
            requests.append(request)
        request.take(number, footprint)
    return tuple(tuple(request.numbers) for request in requests)


def operations(txn: Txn, /) -> int:
    """How etcd counts a transaction: its compares and each branch alone."""
    return max(len(txn.compare), len(txn.success), len(txn.failure))


def nested_operations(txns: Sequence[Txn], /) -> int:
    """How etcd counts them nested in one request: what the outer one uses up is no longer there for the inner ones."""
    return len(txns) + max(map(operations, txns), default=0)


class _Place(NamedTuple):
    """A key, or for None a whole folder: the last of `folders`, which are all that it is in, from the outermost."""

    key: str | None
    folders: tuple[str, ...]

    @classmethod
    def of(cls, where: KeyRange) -> _Place:
        parts = where.key.split("/")[:-1]
        return cls(None if where.prefix else where.key, tuple(accumulate((part + "/" for part in parts), initial="")))


class _Footprint:
    """What a transaction touches, whichever of its branches runs, and how much of a request it takes."""

    def __init__(self, txn: Txn) -> None:
        ops = (*txn.success, *txn.failure)
        reads = chain((item.where for item in txn.compare), (op.where for op in ops if isinstance(op, Get)))
        self.writes = [_Place.of(_range_of(op)) for op in ops if not isinstance(op, Get)]
        self.reads = [_Place.of(where) for where in reads]
        self.operations = operations(txn)
        self.bytes = sum(len(op.key) + len(op.value) for op in ops if isinstance(op, Put))


class _Request:
    """Transactions that travel together."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._written = _Places()
        self._touched = _Places()
        self._operations = 0
        self._bytes = 0

    def has_room(self, footprint: _Footprint, *, max_txn_ops: int) -> bool:
        nested = len(self.numbers) + 1 + max(self._operations, footprint.operations)
        if nested > max_txn_ops or self._bytes + footprint.bytes > MOST_BYTES:
            return False
        clash_of_writes = any(self._touched.overlap(place) for place in footprint.writes)
        return not clash_of_writes and not any(self._written.overlap(place) for place in footprint.reads)

    def take(self, number: int, footprint: _Footprint) -> None:
        self.numbers.append(number)
        self._operations = max(self._operations, footprint.operations)
        self._bytes += footprint.bytes
        self._written.add(footprint.writes)
        self._touched.add(footprint.writes)
        self._touched.add(footprint.reads)


class _Places:
    """A set of keys and folders that knows what it overlaps without looking through them all."""

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._folders: set[str] = set()
        self._above: set[str] = set()  # every folder that has one of them in it, or is one

    def add(self, places: Sequence[_Place]) -> None:
        for place in places:
            self._above.update(place.folders)
            if place.key is None:
                self._folders.add(place.folders[-1])
            else:
                self._keys.add(place.key)

    def overlap(self, place: _Place) -> bool:
        if not self._folders.isdisjoint(place.folders):
            return True
        return place.folders[-1] in self._above if place.key is None else place.key in self._keys


def _range_of(op: Op) -> KeyRange:
    return KeyRange(op.key) if isinstance(op, Put) else op.where
