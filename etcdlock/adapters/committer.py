"""Group commit: transactions that come while others are under way travel together, in one request to etcd.

Guaranteed: each is answered as if it had been sent alone. They travel as nested transactions, each with its own
compares; one succeeds or fails without the others, and none shares a request with one that touches what it touches
(`sharing`). Where etcd refuses a request as a whole, which says that nothing of it was done, each is sent again alone,
so that nobody pays for another's mistake. Where the outcome of a request is unknown, it is unknown for each, and
nothing is sent again. Who gives up while waiting is not sent; who gives up later leaves the others alone, and may have
been done all the same.

A transaction is sent at once when nothing is under way. Otherwise it waits for what is under way, at most as long as
the wrapped store takes for one call; then all that wait are sent, in as many requests side by side as they need. So a
call takes at most twice the store's bound, three times where a request was refused. What must be on its way this very
instant (a heartbeat) is better sent through the wrapped store itself.

Not guaranteed: any order between transactions that are under way at one time, which no store promises.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from etcdlock.adapters.sharing import share_out
from etcdlock.errors import EtcdlockError, InvalidInput, OutcomeUnknown, Refused, Unreachable
from etcdlock.ports import Event, KeyRange, Lease, Snapshot, Store, Txn, TxnResult


class BatchStore(Store, Protocol):
    """A store that takes several transactions in one request."""

    async def txn_batch(self, txns: Sequence[Txn], /) -> tuple[TxnResult, ...]:
        """Send them once, nested in one request; one result each, all with the revision of the whole.

        Every compare is judged by the state before any of them. Raises as `txn` does, and then for all of them.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Rider:
    """A transaction, and where its caller waits for the answer."""

    txn: Txn
    answer: asyncio.Future[TxnResult]

    def settle(self, outcome: TxnResult | BaseException, /) -> None:
        """Tell the caller, unless it has given up."""
        if self.answer.done():
            return
        if isinstance(outcome, TxnResult):
            self.answer.set_result(outcome)
        else:
            self.answer.set_exception(_own(outcome))


class Committer:
    """`ports.Store` round another one; `max_txn_ops` is etcd's --max-txn-ops."""

    def __init__(self, store: BatchStore, /, *, max_txn_ops: int) -> None:
        self._store = store
        self._max_txn_ops = max_txn_ops
        self._waiting: list[_Rider] = []
        self._flights: set[asyncio.Task[None]] = set()
        self._under_way = 0

    async def txn(self, txn: Txn, /) -> TxnResult:
        """Send it once, by itself or along with others; the errors of `ports.Store`."""
        if not self._under_way:
            return await self._go_at_once(txn)
        rider = _Rider(txn, asyncio.get_running_loop().create_future())
        self._waiting.append(rider)
        return await rider.answer

    async def read(self, where: KeyRange, /) -> Snapshot:
        """Passed on."""
        return await self._store.read(where)

    async def grant(self, *, ttl_seconds: int) -> Lease:
        """Passed on."""
        return await self._store.grant(ttl_seconds=ttl_seconds)

    async def keep_alive(self, lease: int, /) -> int:
        """Passed on."""
        return await self._store.keep_alive(lease)

    async def revoke(self, lease: int, /) -> None:
        """Passed on."""
        await self._store.revoke(lease)

    def watch(self, ranges: Sequence[KeyRange], *, after_revision: int) -> AsyncIterator[Event]:
        """Passed on."""
        return self._store.watch(ranges, after_revision=after_revision)

    async def close(self) -> None:
        """Close the wrapped store; what still waits is not sent, and is told so."""
        waiting, self._waiting = self._waiting, []
        for rider in waiting:
            rider.settle(Unreachable("The store was closed before it was sent."))
        await self._store.close()

    # --- under way -------------------------------------------------------------------------------------------------

    async def _go_at_once(self, txn: Txn) -> TxnResult:
        """In the caller's own task: a lone transaction costs nothing more than the store's."""
        self._under_way += 1
        try:
            return await self._store.txn(txn)
        finally:
            self._landed()

    def _landed(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._depart()

    def _depart(self) -> None:
        """Send all that wait."""
        waiting, self._waiting = self._waiting, []
        riders = [rider for rider in waiting if not rider.answer.done()]
        for numbers in share_out([rider.txn for rider in riders], max_txn_ops=self._max_txn_ops):
            self._fly([riders[number] for number in numbers])

    def _fly(self, riders: list[_Rider]) -> None:
        """In a task of their own: no caller's cancellation reaches the others."""
        self._under_way += 1
        flight = asyncio.create_task(self._carry(riders))
        self._flights.add(flight)
        flight.add_done_callback(partial(self._arrived, riders))

    def _arrived(self, riders: list[_Rider], flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        cut_off = OutcomeUnknown("The request was cut off; it may have been done.")
        error = cut_off if flight.cancelled() else flight.exception()
        if error is not None:
            for rider in riders:
                rider.settle(error)
        self._landed()

    async def _carry(self, riders: list[_Rider]) -> None:
        if len(riders) == 1:
            await self._carry_alone(riders)
            return
        try:
            results = await self._store.txn_batch([rider.txn for rider in riders])
        except (Refused, InvalidInput):  # definite: nothing was done for any of them
            await self._carry_alone(riders)
            return
        for rider, result in zip(riders, results, strict=True):
            rider.settle(result)

    async def _carry_alone(self, riders: list[_Rider]) -> None:
        """Each in a request of its own, at the same time."""
        left = [rider for rider in riders if not rider.answer.done()]
        outcomes = await asyncio.gather(*(self._store.txn(rider.txn) for rider in left), return_exceptions=True)
        for rider, outcome in zip(left, outcomes, strict=True):
            rider.settle(outcome)


def _own(error: BaseException) -> BaseException:
    """An error is told to several callers; each gets one of its own, to which its own traceback is written."""
    return type(error)(str(error), hint=error.hint) if isinstance(error, EtcdlockError) else error
