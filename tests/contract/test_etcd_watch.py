"""Watches on a real etcd: order, resumption, silence, compaction, and their end."""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing

import grpc.aio
import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.errors import WatchCancelled, WatchCompacted
from etcdlock.ports import Delete, KeyRange, Put, Txn
from tests.contract.etcds import Admin, opened, patiently, paused, put, silent_endpoint, with_store
from tests.contract.room import take

TRY_SECONDS = 0.5


def _options(*endpoints: str) -> EtcdOptions:
    return EtcdOptions(endpoints=endpoints, try_timeout_seconds=TRY_SECONDS)


def test_several_ranges_come_in_one_order_and_nothing_else_does(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        start = (await store.txn(put("/w1/before"))).revision
        for key in ("/w1/z/1", "/w1/a/1", "/w1/m", "/w1/z/2", "/w1/one", "/w1/one-more", "/w1/a/2"):
            await store.txn(put(key))
        both = Txn(compare=(), success=(Put("/w1/a/3", b"y"), Delete(KeyRange("/w1/z/", prefix=True))))
        last = (await store.txn(both)).revision
        ranges = [KeyRange("/w1/z/", prefix=True), KeyRange("/w1/a/", prefix=True), KeyRange("/w1/one")]
        async with aclosing(store.watch(ranges, after_revision=start)) as events:
            seen = await take(events, 8)
        assert [event.key for event in seen[:5]] == ["/w1/z/1", "/w1/a/1", "/w1/z/2", "/w1/one", "/w1/a/2"]
        assert [event.revision for event in seen] == sorted(event.revision for event in seen)
        assert {(event.key, event.value, event.revision) for event in seen[5:]} == {
            ("/w1/a/3", b"y", last),
            ("/w1/z/1", None, last),
            ("/w1/z/2", None, last),
        }

    with_store(_options(*etcd.endpoints), use)


def test_a_watch_goes_on_after_a_restart_without_losing_or_repeating_an_event(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        start = (await store.txn(put("/w2/0"))).revision
        async with aclosing(store.watch([KeyRange("/w2/", prefix=True)], after_revision=start)) as events:
            await store.txn(put("/w2/1"))
            seen = await take(events, 1)
            await asyncio.to_thread(etcd.restart)
            async with opened(_options(*etcd.endpoints)) as other:
                for key in ("/w2/2", "/w2/3"):
                    await other.txn(put(key))
            seen += await take(events, 2)
        assert [event.key for event in seen] == ["/w2/1", "/w2/2", "/w2/3"]

    with_store(_options(*etcd.endpoints), use)


def test_a_watch_leaves_an_endpoint_that_never_answers(etcd: EmbeddedEtcd) -> None:
    with silent_endpoint() as silent:

        async def use(store: EtcdStore) -> None:
            async with opened(_options(*etcd.endpoints)) as writer:
                start = (await writer.txn(put("/w3/0"))).revision
                await writer.txn(put("/w3/1"))
            async with asyncio.timeout(3 * TRY_SECONDS):
                async with aclosing(store.watch([KeyRange("/w3/", prefix=True)], after_revision=start)) as events:
                    assert [event.key for event in await take(events, 1)] == ["/w3/1"]

        with_store(_options(silent, *etcd.endpoints), use)


def test_a_watch_leaves_a_member_that_falls_silent(cluster: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        start = (await store.txn(put("/w4/0"))).revision
        async with aclosing(store.watch([KeyRange("/w4/", prefix=True)], after_revision=start)) as events:
            await store.txn(put("/w4/1"))
            seen = await take(events, 1)
            async with paused(cluster, 0):
                waiting = asyncio.create_task(take(events, 1))
                async with opened(_options(*cluster.endpoints[1:])) as other:
                    # Only a watch that notices the silence by itself gets this one: its store is not used otherwise.
                    await patiently(other, "/w4/2", make=b"x")
                seen += await waiting
        assert [event.key for event in seen] == ["/w4/1", "/w4/2"]

    with_store(_options(*cluster.endpoints), use)


def test_a_compacted_past_is_reported(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        start = (await store.txn(put("/w5/0"))).revision
        last = [await store.txn(put("/w5/1")) for _ in range(3)][-1].revision
        await Admin(etcd.endpoints[0]).compact(last)
        with pytest.raises(WatchCompacted, match=str(last)):
            async with aclosing(store.watch([KeyRange("/w5/", prefix=True)], after_revision=start)) as events:
                await take(events, 1)

    with_store(_options(*etcd.endpoints), use)


def test_closing_a_watch_ends_its_stream(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        others = _streams()
        start = (await store.txn(put("/w6/0"))).revision
        async with aclosing(store.watch([KeyRange("/w6/", prefix=True)], after_revision=start)) as events:
            await store.txn(put("/w6/1"))
            await take(events, 1)
            assert len(_streams()) > len(others)
        await asyncio.sleep(0)
        assert [each for each in _streams() if each not in others] == []

    with_store(_options(*etcd.endpoints), use)


def _streams() -> list[object]:
    """Calls of gRPC in this process that are still open."""
    return [each for each in gc.get_objects() if isinstance(each, grpc.aio.StreamStreamCall) and not each.done()]


def test_closing_the_store_ends_a_watch_with_an_error_and_not_in_silence(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        start = (await store.txn(put("/w7/0"))).revision
        async with aclosing(store.watch([KeyRange("/w7/", prefix=True)], after_revision=start)) as events:
            await store.txn(put("/w7/1"))
            await take(events, 1)
            waiting = asyncio.create_task(take(events, 1))
            await asyncio.wait({waiting}, timeout=0.05)
            await store.close()
            with pytest.raises(WatchCancelled, match="closed"):
                await waiting

    with_store(_options(*etcd.endpoints), use)


def test_closing_the_store_ends_a_watch_that_is_still_looking_for_an_etcd() -> None:
    with silent_endpoint() as silent:

        async def use(store: EtcdStore) -> None:
            async with aclosing(store.watch([KeyRange("/w8/", prefix=True)], after_revision=0)) as events:
                waiting = asyncio.create_task(take(events, 1))
                await asyncio.wait({waiting}, timeout=0.05)
                await store.close()
                with pytest.raises(WatchCancelled, match="closed"):
                    await waiting

        with_store(_options(silent), use)
