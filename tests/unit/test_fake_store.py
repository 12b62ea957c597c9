"""The fake etcd's own ways: leases on virtual time, scripted faults, and the history that judges read.

What it shares with a real etcd is in the contract suite.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

import pytest

from etcdlock.errors import OutcomeUnknown, Rejected, TooManyOperations, Unreachable, WatchCancelled, WatchCompacted
from etcdlock.ports import Clock, Compare, Delete, Event, Get, KeyRange, Put, Relation, Store, Target, Txn
from etcdlock.testing import (
    Answered,
    Applied,
    Entry,
    FakeClock,
    FakeEtcd,
    FakeStore,
    Fault,
    LeaseEnd,
    LeaseEnded,
    Link,
    Outcome,
    Sent,
    run_virtual,
    steady,
)

KEY = KeyRange("/a")
ALL = KeyRange("/", prefix=True)


def put(value: bytes = b"v", *, key: str = KEY.key, lease: int = 0) -> Txn:
    return Txn((), (Put(key, value, lease),))


def put_if_absent(value: bytes) -> Txn:
    return Txn((Compare(KEY, Target.CREATE_REVISION, Relation.EQUAL, 0),), (Put(KEY.key, value),), (Get(KEY),))


def now() -> float:
    return asyncio.get_running_loop().time()


def values(etcd: FakeEtcd) -> list[bytes]:
    return [kv.value for kv in etcd.contents()]


Scenario = Callable[[FakeEtcd, FakeStore], Coroutine[Any, Any, None]]


def in_virtual_time(scenario: Scenario) -> Callable[[], None]:
    """Make a test of a scenario that has a fresh etcd and the store of one host on it."""

    def test() -> None:
        async def scene() -> None:
            etcd = FakeEtcd()
            await scenario(etcd, etcd.client("host-a"))

        run_virtual(scene)

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


def test_the_fakes_fit_their_ports() -> None:
    store: Store = FakeEtcd().client("host-a")
    clock: Clock = FakeClock()
    assert store.txn
    assert clock.now


# Time.


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
            drawn = random.Random(seed)
            etcd = FakeEtcd(latency_seconds=lambda: drawn.uniform(0.001, 0.1))
            stores = [etcd.client(f"host-{n}") for n in range(4)]
            await asyncio.gather(*(store.txn(put_if_absent(b"%d" % n)) for n, store in enumerate(stores)))
            return list(etcd.history)

        return run_virtual(scene)

    assert history_of(1) == history_of(1)
    winners = {next(e.client for e in history_of(seed) if isinstance(e, Applied)) for seed in range(20)}
    assert len(winners) > 1


# Leases.


@pytest.mark.parametrize("delay_seconds", [0.0, 0.5, 1.0])
def test_a_lease_ends_its_delay_after_its_time_to_live(delay_seconds: float) -> None:
    async def scene() -> None:
        etcd = FakeEtcd(expiry_delay_seconds=steady(delay_seconds), latency_seconds=steady(0.0))
        store = etcd.client("host-a")
        lease = await store.grant(ttl_seconds=10)
        await store.txn(put(lease=lease.id))
        await asyncio.sleep(9.0)
        assert await store.keep_alive(lease.id) == 10
        await asyncio.sleep(10.0 + delay_seconds - 0.001)
        assert values(etcd) == [b"v"]
        await asyncio.sleep(0.002)
        assert values(etcd) == []
        ended = etcd.history[-1]
        assert ended == LeaseEnded(ended.instant, lease.id, LeaseEnd.EXPIRED, 3)
        assert ended.instant == pytest.approx(19.0 + delay_seconds)

    run_virtual(scene)


@in_virtual_time
async def test_a_lease_that_has_run_out_cannot_be_saved_any_more(etcd: FakeEtcd, store: FakeStore) -> None:
    lease = await store.grant(ttl_seconds=10)
    await store.txn(put(lease=lease.id))
    await asyncio.sleep(10.2)
    assert values(etcd) == [b"v"]
    assert await store.keep_alive(lease.id) == 0
    assert values(etcd) == []
    assert now() == pytest.approx(10.5, abs=0.01)


@in_virtual_time
async def test_a_lease_is_granted_for_the_least_ttl_of_the_store(etcd: FakeEtcd, store: FakeStore) -> None:
    lease = await store.grant(ttl_seconds=1)
    assert lease.ttl_seconds == 2
    await store.txn(put(lease=lease.id))
    await asyncio.sleep(1.9)
    assert values(etcd) == [b"v"]


@in_virtual_time
async def test_a_lease_may_be_revoked_wrongly(etcd: FakeEtcd, store: FakeStore) -> None:
    lease = await store.grant(ttl_seconds=10)
    await store.txn(put(lease=lease.id))
    assert await store.keep_alive(lease.id) == 10
    etcd.revoke_wrongly(lease.id)
    assert values(etcd) == []
    assert await store.keep_alive(lease.id) == 0
    ended = [entry for entry in etcd.history if isinstance(entry, LeaseEnded)]
    assert [(entry.lease, entry.why) for entry in ended] == [(lease.id, LeaseEnd.REVOKED_WRONGLY)]


@in_virtual_time
async def test_keepalives_may_lie(etcd: FakeEtcd, store: FakeStore) -> None:
    lease = await store.grant(ttl_seconds=4)
    await store.txn(put(lease=lease.id))
    etcd.keep_alives_lie = True
    for _ in range(4):
        assert await store.keep_alive(lease.id) == 4
        await asyncio.sleep(1)
    await asyncio.sleep(0.5)
    assert values(etcd) == []


@in_virtual_time
async def test_an_election_gives_leases_their_full_time_again(etcd: FakeEtcd, store: FakeStore) -> None:
    lease = await store.grant(ttl_seconds=4)
    await store.txn(put(lease=lease.id))
    await asyncio.sleep(3)
    etcd.restart_leases()
    await asyncio.sleep(3.9)
    assert values(etcd) == [b"v"]
    await asyncio.sleep(1)
    assert values(etcd) == []


# Faults of transactions.


@in_virtual_time
async def test_a_lost_request_was_not_applied(etcd: FakeEtcd, store: FakeStore) -> None:
    store.lose(Fault.REQUEST)
    with pytest.raises(OutcomeUnknown):
        await store.txn(put(b"lost"))
    await asyncio.sleep(60)
    assert values(etcd) == []
    await store.txn(put(b"next"))
    assert values(etcd) == [b"next"]


@in_virtual_time
async def test_a_lost_answer_was_applied(etcd: FakeEtcd, store: FakeStore) -> None:
    store.lose(Fault.ANSWER)
    with pytest.raises(OutcomeUnknown):
        await store.txn(put(b"done"))
    assert values(etcd) == [b"done"]


@in_virtual_time
async def test_the_answer_to_a_refused_request_may_be_lost_too(etcd: FakeEtcd, store: FakeStore) -> None:
    store.lose(Fault.ANSWER)
    with pytest.raises(OutcomeUnknown):
        await store.txn(put(lease=77))
    assert values(etcd) == []


@in_virtual_time
async def test_a_late_request_is_applied_later_if_its_compares_hold_then(etcd: FakeEtcd, store: FakeStore) -> None:
    store.lose(Fault.LATE, delay_seconds=5)
    with pytest.raises(OutcomeUnknown):
        await store.txn(put_if_absent(b"late"))
    assert now() < 0.01
    assert (await store.read(KEY)).found == ()
    await asyncio.sleep(5)
    assert values(etcd) == [b"late"]

    await store.txn(Txn((), (Delete(KEY),)))
    store.lose(Fault.LATE, delay_seconds=5)
    with pytest.raises(OutcomeUnknown):
        await store.txn(put_if_absent(b"late"))
    await store.txn(put(b"quicker"))
    store.cut()
    await asyncio.sleep(5)
    assert values(etcd) == [b"quicker"]
    late = etcd.history[-1]
    assert isinstance(late, Applied)
    assert late.result is not None
    assert not late.result.succeeded


@in_virtual_time
async def test_a_fault_befalls_those_it_was_meant_for(etcd: FakeEtcd, store: FakeStore) -> None:
    store.lose(Fault.REQUEST, count=2, when=lambda txn: any(isinstance(op, Delete) for op in txn.success))
    other = etcd.client("host-b")
    delete = Txn((), (Delete(KEY),))
    await store.txn(put())
    await other.txn(delete)
    outcomes = []
    for _ in range(3):
        try:
            await store.txn(delete)
            outcomes.append(Outcome.DONE)
        except OutcomeUnknown:
            outcomes.append(Outcome.UNKNOWN)
    assert outcomes == [Outcome.UNKNOWN, Outcome.UNKNOWN, Outcome.DONE]


@in_virtual_time
async def test_too_many_operations_never_leave_the_host(etcd: FakeEtcd, store: FakeStore) -> None:
    with pytest.raises(TooManyOperations):
        await store.txn(Txn((), (Get(KEY),) * 129))
    assert list(etcd.history) == []


# Faults of the link.


@in_virtual_time
async def test_a_cut_host_waits_for_its_time_limit_and_nothing_arrives(etcd: FakeEtcd, store: FakeStore) -> None:
    other = etcd.client("host-b")
    store.cut()
    with pytest.raises(OutcomeUnknown):
        await store.txn(put(b"cut off"))
    assert now() == pytest.approx(1.5)
    for call in (store.read(KEY), store.grant(ttl_seconds=5), store.keep_alive(1), store.revoke(1)):
        with pytest.raises(Unreachable):
            await call
    assert now() == pytest.approx(7.5)
    await other.txn(put(b"other"))
    store.mend()
    await store.txn(put(b"mended"))
    assert [change.stored.value for change in etcd.changes() if change.stored] == [b"other", b"mended"]


@in_virtual_time
async def test_a_cut_in_the_middle_loses_the_answer_to_what_was_applied(etcd: FakeEtcd, store: FakeStore) -> None:
    asyncio.get_running_loop().call_later(0.0007, store.cut)
    with pytest.raises(OutcomeUnknown):
        await store.txn(put(b"applied"))
    assert values(etcd) == [b"applied"]


@in_virtual_time
async def test_a_refused_connection_is_known_at_once_and_sends_nothing(etcd: FakeEtcd, store: FakeStore) -> None:
    store.cut(Link.REFUSED)
    for call in (store.txn(put()), store.read(KEY)):
        with pytest.raises(Unreachable):
            await call
    assert now() < 0.01
    assert values(etcd) == []


@in_virtual_time
async def test_connections_that_break_under_a_request_leave_it_unknown(etcd: FakeEtcd, store: FakeStore) -> None:
    for instant in (0.0002, 0.0007):
        store.mend()
        asyncio.get_running_loop().call_later(instant, lambda: store.cut(Link.REFUSED))
        with pytest.raises(OutcomeUnknown):
            await store.txn(put(f"{instant}".encode()))
    assert values(etcd) == [b"0.0007"]
    assert now() < 0.01


@in_virtual_time
async def test_a_hung_etcd_does_later_what_it_was_sent(etcd: FakeEtcd, store: FakeStore) -> None:
    store.hang()
    for value in (b"first", b"second"):
        with pytest.raises(OutcomeUnknown):
            await store.txn(put_if_absent(value))
    await asyncio.sleep(10)
    assert values(etcd) == []
    store.mend()
    assert values(etcd) == [b"first"]


@in_virtual_time
async def test_an_etcd_that_is_killed_while_it_hangs_forgets_what_it_was_sent(etcd: FakeEtcd, store: FakeStore) -> None:
    store.hang()
    with pytest.raises(OutcomeUnknown):
        await store.txn(put())
    store.cut(Link.REFUSED)
    store.mend()
    assert values(etcd) == []


@in_virtual_time
async def test_a_cancelled_caller_does_not_call_its_request_back(etcd: FakeEtcd, store: FakeStore) -> None:
    call = asyncio.ensure_future(store.txn(put(b"on its way")))
    await asyncio.sleep(0)
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    assert values(etcd) == []
    await asyncio.sleep(1)
    assert values(etcd) == [b"on its way"]


@in_virtual_time
async def test_a_closed_store_sends_nothing(etcd: FakeEtcd, store: FakeStore) -> None:
    await store.close()
    for call in (store.txn(put()), store.read(KEY)):
        with pytest.raises(Unreachable):
            await call
    assert list(etcd.history) == []


# Faults of the database.


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


@in_virtual_time
async def test_compaction_goes_only_forward_and_not_into_the_future(etcd: FakeEtcd, store: FakeStore) -> None:
    await store.txn(put())
    await store.txn(put())
    etcd.compact(2)
    for revision in (1, 2, 4):
        with pytest.raises(Rejected):
            etcd.compact(revision)
    assert etcd.compacted == 2


# History.


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
