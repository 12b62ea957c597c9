"""The store of one host on a `FakeEtcd`, with faults scripted for this host alone.

It implements `Store` and is told apart from a real one by nothing but its speed. Every call takes time on its way, so
that calls of several tasks and hosts really interleave.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from etcdlock.errors import (
    OutcomeUnknown,
    Refused,
    TooManyOperations,
    Unreachable,
    WatchCancelled,
    WatchCompacted,
)
from etcdlock.ports import Event, KeyRange, Lease, Snapshot, Txn, TxnResult
from etcdlock.testing.faults import Answered, Fault, Link, Loss, Outcome, Sent, any_txn
from etcdlock.testing.mvcc import covers
from etcdlock.testing.wire import NoAnswer, Wire

if TYPE_CHECKING:
    from etcdlock.testing.database import FakeEtcd

T = TypeVar("T")


class FakeStore:
    """Made by `FakeEtcd.client`."""

    def __init__(self, etcd: FakeEtcd, name: str, /) -> None:
        self._etcd = etcd
        self._name = name
        self._wire = Wire(
            name=name,
            latency_seconds=etcd.latency_seconds,
            try_timeout_seconds=etcd.try_timeout_seconds,
        )
        self._losses: list[Loss] = []
        self._watch_era = 0
        self._closed = False

    # Faults.

    def cut(self, link: Link = Link.CUT) -> None:
        """From now on nothing gets through, in the way that `link` says."""
        self._wire.set_link(link)
        self._etcd.changed.ring()

    def hang(self) -> None:
        """etcd takes what is sent but serves it only once the link is mended."""
        self.cut(Link.HUNG)

    def mend(self) -> None:
        self.cut(Link.UP)

    def slow_down(self, latency_seconds: Callable[[], float]) -> None:
        """From now on messages of this host take so long, one way; drawn for each. Mending does not end it."""
        self._wire.latency_seconds = latency_seconds

    def lose(
        self, fault: Fault, *, count: int = 1, when: Callable[[Txn], bool] = any_txn, delay_seconds: float = 0.0
    ) -> None:
        """Let the fault befall the next `count` transactions that `when` picks.

        `delay_seconds` is for `Fault.LATE`: how long after it was sent the transaction is applied, if its compares hold
        then. It arrives even if the link is cut by that time.
        """
        self._losses.append(Loss(fault, count, when, delay_seconds))

    def lose_no_more(self) -> None:
        """Whatever was scripted and has not happened yet does not."""
        self._losses.clear()

    def cancel_watches(self) -> None:
        """etcd ends every watch that this store has open."""
        self._watch_era += 1
        self._etcd.changed.ring()

    # The port.

    async def txn(self, txn: Txn, /) -> TxnResult:
        self._check_open()
        self._check_size(_operations(txn))
        (result,) = await self._send_once((txn,))
        return result

    async def txn_batch(self, txns: Sequence[Txn], /) -> tuple[TxnResult, ...]:
        """Several nested in one request. A fault that is scripted for one of them befalls them all."""
        self._check_open()
        self._check_size(len(txns) + max(map(_operations, txns), default=0))  # as etcd counts nested ones
        return await self._send_once(txns)

    async def read(self, where: KeyRange, /) -> Snapshot:
        return await self._repeatable(lambda: self._etcd.read(where))

    async def grant(self, *, ttl_seconds: int) -> Lease:
        return await self._repeatable(lambda: self._etcd.grant(ttl_seconds))

    async def keep_alive(self, lease: int, /) -> int:
        renewal = await self._repeatable(lambda: self._etcd.renew(lease))
        # etcd answers for a lease that has run out only once its keys are gone.
        limit_seconds = self._etcd.try_timeout_seconds
        await asyncio.sleep(min(renewal.after_seconds, limit_seconds))
        if renewal.after_seconds > limit_seconds:
            raise Unreachable(f"{self._name}: no answer within {limit_seconds:g} s")
        return renewal.ttl_seconds

    async def revoke(self, lease: int, /) -> None:
        await self._repeatable(lambda: self._etcd.revoke(lease))

    async def watch(self, ranges: Sequence[KeyRange], *, after_revision: int) -> AsyncGenerator[Event, None]:
        era, following = self._watch_era, after_revision + 1
        while True:
            self._check_watched(era)
            if not self._is_linked() or following > self._etcd.revision:
                await self._etcd.changed.wait()
                continue
            if following < self._etcd.compacted:
                raise WatchCompacted(f"{self._name}: {following} is needed, history begins at {self._etcd.compacted}")
            changes, upto = self._etcd.visible_changes(from_revision=following), self._etcd.revision
            await self._wire.delay()
            if not self._is_linked():
                continue
            following = upto + 1
            for change in changes:
                if any(covers(where, change.key) for where in ranges):
                    yield Event(change.key, change.stored.value if change.stored else None, change.revision)

    async def close(self) -> None:
        self._closed = True
        self.cancel_watches()

    async def _send_once(self, txns: Sequence[Txn]) -> tuple[TxnResult, ...]:
        numbers = [self._etcd.next_number() for _ in txns]
        for number, txn in zip(numbers, txns, strict=True):
            self._etcd.record(Sent(_now(), self._name, number, txn))
        try:
            results = await self._send(txns, numbers=numbers)
        except Refused:
            self._answered(numbers, Outcome.REFUSED)
            raise
        except Unreachable:
            self._answered(numbers, Outcome.UNREACHABLE)
            raise
        except NoAnswer as lost:
            self._answered(numbers, Outcome.UNKNOWN)
            raise OutcomeUnknown(str(lost)) from None
        self._answered(numbers, Outcome.DONE)
        return results

    async def _send(self, txns: Sequence[Txn], *, numbers: Sequence[int]) -> tuple[TxnResult, ...]:
        def serve() -> tuple[TxnResult, ...]:
            return self._etcd.apply(txns, client=self._name, numbers=numbers)

        loss = self._take_loss(txns)
        if loss is None:
            return await self._wire.exchange(serve)
        match loss.fault:
            case Fault.REQUEST:
                await self._wire.delay()
            case Fault.ANSWER:
                with suppress(Refused):
                    await self._wire.exchange(serve)
            case Fault.LATE:
                asyncio.get_running_loop().call_later(loss.delay_seconds, _serve_unheard, serve)
                await self._wire.delay()
        raise NoAnswer(f"{self._name}: connection lost ({loss.fault})")

    def _take_loss(self, txns: Sequence[Txn]) -> Loss | None:
        if not self._is_linked():
            return None
        for place, loss in enumerate(self._losses):
            if any(map(loss.when, txns)):
                left = [replace(loss, count=loss.count - 1)] if loss.count > 1 else []
                self._losses[place : place + 1] = left
                return loss
        return None

    async def _repeatable(self, serve: Callable[[], T]) -> T:
        self._check_open()
        try:
            return await self._wire.exchange(serve)
        except NoAnswer as lost:
            raise Unreachable(str(lost)) from None

    def _answered(self, numbers: Sequence[int], outcome: Outcome) -> None:
        for number in numbers:
            self._etcd.record(Answered(_now(), self._name, number, outcome))

    def _check_open(self) -> None:
        if self._closed:
            raise Unreachable(f"{self._name}: the store is closed")

    def _is_linked(self) -> bool:
        return self._wire.link is Link.UP

    def _check_watched(self, era: int) -> None:
        if self._closed:
            raise WatchCancelled(f"{self._name}: the store is closed")
        if era != self._watch_era:
            raise WatchCancelled(f"{self._name}: etcd ended the watch")

    def _check_size(self, operations: int) -> None:
        if operations > self._etcd.max_txn_ops:
            raise TooManyOperations(f"{operations} operations do not fit: etcd takes {self._etcd.max_txn_ops} at once")


def _operations(txn: Txn) -> int:
    return max(len(txn.compare), len(txn.success), len(txn.failure))


def _serve_unheard(serve: Callable[[], object]) -> None:
    """Apply what nobody waits for any more; a refusal is in the history."""
    with suppress(Refused):
        serve()


def _now() -> float:
    return asyncio.get_running_loop().time()
