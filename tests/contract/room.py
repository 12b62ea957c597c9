"""Where a contract test lives: a store, a fresh prefix, and the same test on the fake and on real etcds.

A test is an `async def` of one `Room`, wrapped by `in_room`; the `world` fixture tells on which store it runs. On the
fake it runs in virtual time. On a real etcd it waits for events, never for time to pass, and is ended after a deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.ports import (
    Compare,
    Delete,
    Event,
    Get,
    KeyRange,
    KeyValue,
    Op,
    Put,
    Relation,
    Store,
    Target,
    Txn,
    TxnResult,
)
from etcdlock.testing import FakeEtcd, run_virtual
from tests.contract.etcds import DEADLINE_SECONDS, Admin, no_task_left


@dataclass(frozen=True, slots=True)
class Room:
    """One store and what a test needs round it."""

    store: Store
    prefix: str
    open_store: Callable[[], Store]
    compact: Callable[[int], Awaitable[None]]

    def key(self, name: str) -> str:
        return self.prefix + name

    def below(self, name: str = "") -> KeyRange:
        """Every key of the room whose name starts so."""
        return KeyRange(self.prefix + name, prefix=True)

    async def do(self, *ops: Op) -> TxnResult:
        """A transaction without conditions."""
        result = await self.store.txn(Txn((), ops))
        assert result.succeeded
        return result

    async def put(self, name: str, value: bytes = b"v", *, lease: int = 0) -> int:
        """The revision that wrote it."""
        return (await self.do(Put(self.key(name), value, lease))).revision

    async def delete(self, name: str) -> int:
        return (await self.do(Delete(KeyRange(self.key(name))))).revision

    async def get(self, name: str) -> KeyValue | None:
        found = (await self.store.read(KeyRange(self.key(name)))).found
        return found[0] if found else None

    async def holds(self, where: KeyRange, target: Target, relation: Relation, number: int) -> bool:
        return (await self.store.txn(Txn((Compare(where, target, relation, number),), ()))).succeeded

    async def revision(self) -> int:
        return (await self.do(Get(self.below()))).revision

    async def events(self, count: int, *ranges: KeyRange, after_revision: int) -> list[Event]:
        """The first so many events of a watch."""
        async with aclosing(self.watch(*ranges, after_revision=after_revision)) as stream:
            return await take(stream, count)

    def watch(self, *ranges: KeyRange, after_revision: int) -> AsyncGenerator[Event, None]:
        """A watch that can be closed, of the whole room if no range is given."""
        return self.watch_of(self.store, *ranges, after_revision=after_revision)

    def watch_of(self, store: Store, *ranges: KeyRange, after_revision: int) -> AsyncGenerator[Event, None]:
        stream = store.watch(ranges or (self.below(),), after_revision=after_revision)
        assert isinstance(stream, AsyncGenerator)
        return stream


async def take(stream: AsyncIterator[Event], count: int) -> list[Event]:
    """The next so many events; the world's deadline ends a wait for one that never comes."""
    return [await anext(stream) for _ in range(count)]


Scenario = Callable[[Room], Coroutine[Any, Any, None]]


class World(Protocol):
    """Makes rooms and runs scenarios in them."""

    def run(self, scenario: Scenario, /) -> None: ...


def in_room(scenario: Scenario) -> Callable[[World], None]:
    """Make a test of a scenario. The wrapper hides the scenario's own parameter from pytest."""

    def test(world: World) -> None:
        world.run(scenario)

    test.__name__, test.__doc__, test.__module__ = scenario.__name__, scenario.__doc__, scenario.__module__
    return test


class FakeWorld:
    """A fresh FakeEtcd for each scenario."""

    def run(self, scenario: Scenario, /) -> None:
        async def scene() -> None:
            etcd = FakeEtcd()

            async def compact(revision: int) -> None:
                etcd.compact(revision)

            await scenario(Room(etcd.client("one"), "/room/", lambda: etcd.client("another"), compact))

        run_virtual(scene)


class EtcdWorld:
    """A running etcd, of one member or more; each scenario has a prefix of its own and leaves nothing behind."""

    def __init__(self, *endpoints: str) -> None:
        self._endpoints = endpoints

    def run(self, scenario: Scenario, /) -> None:
        async def scene() -> None:
            async with asyncio.timeout(DEADLINE_SECONDS), no_task_left(), AsyncExitStack() as stack:
                room = self._room(stack)
                try:
                    await scenario(room)
                finally:
                    # Keys gone, no lease of this scenario can move the revision in the middle of a later one.
                    await room.do(Delete(room.below()))

        asyncio.run(scene())

    def _room(self, stack: AsyncExitStack) -> Room:
        def open_store() -> Store:
            store = EtcdStore(EtcdOptions(endpoints=self._endpoints))
            stack.push_async_callback(store.close)
            return store

        return Room(open_store(), f"/room/{uuid4()}/", open_store, Admin(self._endpoints[0]).compact)
