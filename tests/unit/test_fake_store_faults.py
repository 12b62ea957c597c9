"""What befalls a transaction on its way to the fake etcd: lost, late, cut off, refused, hung."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from etcdlock.errors import OutcomeUnknown, TooManyOperations, Unreachable
from etcdlock.ports import Delete, Get, Txn
from etcdlock.testing import Applied, FakeEtcd, FakeStore, Fault, Link, Outcome
from tests.unit.fake_scene import KEY, in_virtual_time, now, put, put_if_absent, values


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


@in_virtual_time
async def test_what_was_to_be_lost_and_has_not_been_yet_is_not_once_that_is_over(
    etcd: FakeEtcd, store: FakeStore
) -> None:
    store.lose(Fault.REQUEST, count=5)
    with pytest.raises(OutcomeUnknown):
        await store.txn(put())
    store.lose_no_more()
    await store.txn(put(b"again"))
    assert values(etcd) == [b"again"]


@in_virtual_time
async def test_one_hosts_way_to_etcd_may_be_slow_also_after_it_was_mended(etcd: FakeEtcd, store: FakeStore) -> None:
    store.slow_down(lambda: 0.4)
    store.cut()
    store.mend()
    await store.txn(put())
    assert now() == pytest.approx(0.8)
    await etcd.client("host-b").txn(put())
    assert now() < 0.9


@in_virtual_time
async def test_whoever_listens_hears_of_what_happens_at_that_very_moment(etcd: FakeEtcd, store: FakeStore) -> None:
    heard: list[tuple[str, float]] = []
    etcd.listeners.append(lambda entry: heard.append((type(entry).__name__, entry.instant)))
    await store.txn(put())
    assert [name for name, _ in heard] == ["Sent", "Applied", "Answered"]
    assert [instant for _, instant in heard] == [entry.instant for entry in etcd.history]
