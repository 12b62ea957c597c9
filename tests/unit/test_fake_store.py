"""The fake etcd's own ways: calls that take time, stale reads, compaction, and the history that judges read.

What it shares with a real etcd is in the contract suite.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from etcdlock.errors import OutcomeUnknown, Rejected, Unreachable
from etcdlock.ports import Delete, Get, KeyRange, Put, Store, Txn
from etcdlock.testing import (
    Answered,
    Applied,
    Entry,
    FakeEtcd,
    FakeStore,
    Fault,
    LeaseEnded,
    Link,
    Outcome,
    Sent,
    run_virtual,
)
from tests.unit.fake_scene import KEY, in_virtual_time, now, put, put_if_absent, values

ALL = KeyRange("/", prefix=True)


@in_virtual_time
async def test_calls_take_time_and_interleave(etcd: FakeEtcd, store: FakeStore) -> None:
    other = etcd.client("host-b")

    async def add_one(mine: Store) -> None:
        """A lost update, were nothing compared: both read before either writes."""
        found = (await mine.read(KEY)).found
        await mine.txn(put(b"%d" % (int(found[0].value if found else b"0") + 1)))

    await asyncio.gather(add_one(store), add_one(other))
    assert values(etcd) == [b"1"]
    assert now() == pytest.approx(0.002)


def test_one_seed_is_one_history() -> None:
    def history_of(seed: int) -> list[Entry]:
        async def scene() -> list[Entry]:
            drawn = random.Random(seed)  # noqa: S311  # a seed decides all
            etcd = FakeEtcd(latency_seconds=lambda: drawn.uniform(0.001, 0.1))
            stores = [etcd.client(f"host-{n}") for n in range(4)]
            await asyncio.gather(*(store.txn(put_if_absent(b"%d" % n)) for n, store in enumerate(stores)))
            return list(etcd.history)

        return run_virtual(scene)

    assert history_of(1) == history_of(1)
    winners = {next(e.client for e in history_of(seed) if isinstance(e, Applied)) for seed in range(20)}
    assert len(winners) > 1


@in_virtual_time
async def test_reads_may_be_stale_and_transactions_never_are(etcd: FakeEtcd, store: FakeStore) -> None:
    await store.txn(put(b"1", key="/b"))
    await store.txn(put(b"1"))
    await store.txn(Txn((), (Delete(KeyRange("/b")), Put(KEY.key, b"2"))))
    etcd.stale_reads(2)
    assert [kv.value for kv in (await store.txn(Txn((), (Get(ALL),)))).replies[0]] == [b"2"]
    for _ in range(2):
        stale = await store.read(ALL)
        assert (stale.revision, [(kv.key, kv.value) for kv in stale.found]) == (3, [("/a", b"1"), ("/b", b"1")])
    fresh = await store.read(ALL)
    assert (fresh.revision, [kv.value for kv in fresh.found]) == (4, [b"2"])
    etcd.stale_reads(1, revisions=99)
    assert (await store.read(ALL)).found == ()


@in_virtual_time
async def test_compaction_goes_only_forward_and_not_into_the_future(etcd: FakeEtcd, store: FakeStore) -> None:
    await store.txn(put())
    await store.txn(put())
    etcd.compact(2)
    for revision in (1, 2, 4):
        with pytest.raises(Rejected):
            etcd.compact(revision)
    assert etcd.compacted == 2


@in_virtual_time
async def test_the_history_tells_what_was_sent_applied_and_answered(etcd: FakeEtcd, store: FakeStore) -> None:
    store.lose(Fault.LATE, delay_seconds=1)
    with suppress(OutcomeUnknown):
        await store.txn(put(b"late"))
    await store.txn(put(b"quick"))
    with suppress(Rejected):
        await store.txn(put(lease=77))
    store.cut(Link.REFUSED)
    with suppress(Unreachable):
        await store.txn(put())
    await asyncio.sleep(2)
    told = [
        (type(entry), entry.number, entry.outcome if isinstance(entry, Answered) else None)
        for entry in etcd.history
        if not isinstance(entry, LeaseEnded)
    ]
    assert told == [
        (Sent, 1, None),
        (Answered, 1, Outcome.UNKNOWN),
        (Sent, 2, None),
        (Applied, 2, None),
        (Answered, 2, Outcome.DONE),
        (Sent, 3, None),
        (Applied, 3, None),
        (Answered, 3, Outcome.REFUSED),
        (Sent, 4, None),
        (Answered, 4, Outcome.UNREACHABLE),
        (Applied, 1, None),
    ]
    instants = [entry.instant for entry in etcd.history]
    assert instants == sorted(instants)
    applied = [entry for entry in etcd.history if isinstance(entry, Applied)]
    assert [entry.result.revision if entry.result else None for entry in applied] == [2, None, 3]
    assert {entry.client for entry in applied} == {"host-a"}
