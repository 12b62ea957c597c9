"""A host whose program can be stalled: whatever it waits for comes back only when the stall is over.

What it had sent goes on, guests run on, clocks run on; only the coroutines of the program stand still. One that is
killed never hears of anything again and sends nothing more: wherever it waits, it is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime

from etcdlock.errors import EtcdlockError
from etcdlock.ports import Event, KeyRange, Lease, Snapshot, Txn, TxnResult
from etcdlock.testing import FakeClock, FakeStore

LEAST_SLEEP_SECONDS = 1.0


class Stall:
    """Begin it and end it at will. `refuse` makes etcd say no to some transactions, or to none."""

    def __init__(self) -> None:
        self.refuse: Callable[[Txn], EtcdlockError | None] = lambda _txn: None
        self._over = asyncio.Event()
        self._over.set()
        self._killed = False

    def begin(self) -> None:
        self._over.clear()

    def end(self) -> None:
        self._over.set()

    def kill(self) -> None:
        self._killed = True
        self._over.set()

    @property
    def stalled(self) -> bool:
        return not self._over.is_set()

    @property
    def killed(self) -> bool:
        return self._killed

    def check_alive(self) -> None:
        if self._killed:
            raise asyncio.CancelledError

    async def over(self) -> None:
        await self._over.wait()
        self.check_alive()


class StalledClock:
    """The host's clock, as its program reads it."""

    def __init__(self, clock: FakeClock, stall: Stall) -> None:
        self._clock = clock
        self._stall = stall

    def now(self) -> float:
        return self._clock.now()

    async def sleep(self, seconds: float, /) -> None:
        if self._stall.killed:  # what is left of it may loop: let time pass
            await self._clock.sleep(max(seconds, LEAST_SLEEP_SECONDS))
        await self._stall.over()
        try:
            await self._clock.sleep(seconds)
        finally:
            await self._stall.over()

    def rate_error(self) -> float:
        return self._clock.rate_error()

    def wall(self) -> datetime:
        return self._clock.wall()


class StalledStore:
    """The host's store, as its program reaches it."""

    def __init__(self, store: FakeStore, stall: Stall) -> None:
        self._store = store
        self._stall = stall

    async def txn(self, txn: Txn, /) -> TxnResult:
        await self._stall.over()
        refusal = self._stall.refuse(txn)
        if refusal is not None:
            raise refusal
        try:
            return await self._store.txn(txn)
        finally:
            await self._stall.over()

    async def txn_batch(self, txns: Sequence[Txn], /) -> tuple[TxnResult, ...]:
        await self._stall.over()
        for refusal in filter(None, map(self._stall.refuse, txns)):
            raise refusal
        try:
            return await self._store.txn_batch(txns)
        finally:
            await self._stall.over()

    async def read(self, where: KeyRange, /) -> Snapshot:
        await self._stall.over()
        try:
            return await self._store.read(where)
        finally:
            await self._stall.over()

    async def grant(self, *, ttl_seconds: int) -> Lease:
        await self._stall.over()
        try:
            return await self._store.grant(ttl_seconds=ttl_seconds)
        finally:
            await self._stall.over()

    async def keep_alive(self, lease: int, /) -> int:
        await self._stall.over()
        try:
            return await self._store.keep_alive(lease)
        finally:
            await self._stall.over()

    async def revoke(self, lease: int, /) -> None:
        await self._stall.over()
        try:
            await self._store.revoke(lease)
        finally:
            await self._stall.over()

    async def watch(self, ranges: Sequence[KeyRange], *, after_revision: int) -> AsyncGenerator[Event, None]:
        await self._stall.over()
        async for event in self._store.watch(ranges, after_revision=after_revision):
            await self._stall.over()
            yield event

    async def close(self) -> None:
        await self._store.close()
