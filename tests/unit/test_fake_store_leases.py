"""Leases of the fake etcd end in virtual time as those of a real one do, and can be made to end wrongly."""

from __future__ import annotations

import asyncio

import pytest

from etcdlock.testing import FakeEtcd, FakeStore, LeaseEnd, LeaseEnded, run_virtual, steady
from tests.unit.fake_scene import in_virtual_time, now, put, values


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
