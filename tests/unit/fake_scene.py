"""What the tests of the fake etcd share: a fresh etcd with the store of one host on it, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from etcdlock.ports import Compare, Get, KeyRange, Put, Relation, Target, Txn
from etcdlock.testing import FakeEtcd, FakeStore, run_virtual

KEY = KeyRange("/a")

Scenario = Callable[[FakeEtcd, FakeStore], Coroutine[Any, Any, None]]


def put(value: bytes = b"v", *, key: str = KEY.key, lease: int = 0) -> Txn:
    return Txn((), (Put(key, value, lease),))


def put_if_absent(value: bytes) -> Txn:
    return Txn((Compare(KEY, Target.CREATE_REVISION, Relation.EQUAL, 0),), (Put(KEY.key, value),), (Get(KEY),))


def now() -> float:
    return asyncio.get_running_loop().time()


def values(etcd: FakeEtcd) -> list[bytes]:
    return [kv.value for kv in etcd.contents()]


def in_virtual_time(scenario: Scenario) -> Callable[[], None]:
    """Make a test of a scenario that has a fresh etcd and the store of one host on it."""

    def test() -> None:
        async def scene() -> None:
            etcd = FakeEtcd()
            await scenario(etcd, etcd.client("host-a"))

        run_virtual(scene)

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test
