"""Watches of the fake etcd miss events, survive cuts, and end where those of a real one end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from etcdlock.errors import WatchCancelled, WatchCompacted
from etcdlock.ports import Event
from etcdlock.testing import FakeEtcd, FakeStore, Link
from tests.unit.fake_scene import KEY, in_virtual_time, put, values


@in_virtual_time
async def test_events_may_be_lost(etcd: FakeEtcd, store: FakeStore) -> None:
    etcd.lose_events(2)
    for value in (b"1", b"2", b"3"):
        await store.txn(put(value))
    async with aclosing(store.watch([KEY], after_revision=1)) as stream:
        assert await anext(stream) == Event(KEY.key, b"3", 4)
    assert values(etcd) == [b"3"]


@in_virtual_time
async def test_a_watch_tells_after_a_cut_what_it_missed(etcd: FakeEtcd, store: FakeStore) -> None:
    other = etcd.client("host-b")
    async with aclosing(store.watch([KEY], after_revision=1)) as stream:
        await other.txn(put(b"1"))
        assert (await anext(stream)).value == b"1"
        for link in (Link.CUT, Link.REFUSED, Link.HUNG):
            store.cut(link)
            await other.txn(put(link.encode()))
            coming = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(30)
            assert not coming.done()
            store.mend()
            assert (await coming).value == link.encode()


@in_virtual_time
async def test_an_event_that_is_cut_off_on_its_way_comes_after_the_cut(etcd: FakeEtcd, store: FakeStore) -> None:
    async with aclosing(store.watch([KEY], after_revision=1)) as stream:
        coming = asyncio.ensure_future(anext(stream))
        await etcd.client("host-b").txn(put(b"1"))
        # It was applied half a round trip before its writer heard of it, and is with the watch by now.
        await coming
        coming = asyncio.ensure_future(anext(stream))
        asyncio.get_running_loop().call_later(0.0007, store.cut)
        await etcd.client("host-b").txn(put(b"2"))
        await asyncio.sleep(30)
        assert not coming.done()
        store.mend()
        assert (await coming).value == b"2"


@in_virtual_time
async def test_a_watch_that_was_cut_off_too_long_is_told_of_the_compaction(etcd: FakeEtcd, store: FakeStore) -> None:
    other = etcd.client("host-b")
    async with aclosing(store.watch([KEY], after_revision=1)) as stream:
        store.cut()
        for value in (b"1", b"2", b"3"):
            await other.txn(put(value))
        etcd.compact(etcd.revision)
        store.mend()
        with pytest.raises(WatchCompacted):
            await anext(stream)


@in_virtual_time
async def test_a_watch_may_be_cancelled_and_ends_with_its_store(etcd: FakeEtcd, store: FakeStore) -> None:
    for end in (store.cancel_watches, lambda: asyncio.ensure_future(store.close())):
        watching = asyncio.ensure_future(anext(store.watch([KEY], after_revision=1)))
        await asyncio.sleep(1)
        end()
        with pytest.raises(WatchCancelled):
            await watching
    assert values(etcd) == []
