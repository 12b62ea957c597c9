"""What only the store on a real etcd has: endpoints that fail or fall silent, and outcomes that stay unknown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.errors import OutcomeUnknown, Rejected, TooManyOperations, Unreachable
from etcdlock.ports import Compare, Delete, Get, KeyRange, Put, Relation, Target, Txn
from tests.contract.etcds import binaries, get, put, refusing_endpoint, silent_endpoint, with_store

TRY_SECONDS = 0.5
SLACK_SECONDS = 0.4


@pytest.fixture(scope="module", params=binaries())
def etcd(request: pytest.FixtureRequest) -> Iterator[EmbeddedEtcd]:
    with EmbeddedEtcd(binary=request.param) as running:
        yield running


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedEtcd]:
    with EmbeddedEtcd(cluster_size=3) as running:
        yield running


def _options(*endpoints: str, **more: int) -> EtcdOptions:
    return EtcdOptions(endpoints=endpoints, try_timeout_seconds=TRY_SECONDS, **more)


def test_an_exclusive_acquire_fails_as_long_as_anything_is_under_the_prefix(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        room = KeyRange("/exclusive/disk/", prefix=True)
        empty = Compare(room, Target.CREATE_REVISION, Relation.EQUAL, 0)
        acquire = Txn(compare=(empty,), success=(Put("/exclusive/disk/exclusive", b"a"),), failure=(Get(room),))
        first, second = await store.txn(acquire), await store.txn(acquire)
        assert first.succeeded
        assert not second.succeeded
        assert [found.value for found in second.replies[0]] == [b"a"]
        older = Compare(room, Target.MOD_REVISION, Relation.LESS, first.revision)
        assert not (await store.txn(Txn(compare=(older,), success=()))).succeeded
        await store.txn(Txn(compare=(), success=(Delete(room),)))
        assert (await store.txn(acquire)).succeeded

    with_store(_options(*etcd.endpoints), use)


def test_a_key_on_a_lease_lives_and_ends_with_it(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        lease = await store.grant(ttl_seconds=30)
        await store.txn(Txn(compare=(), success=(Put("/leased", b"x", lease=lease.id),)))
        assert (await store.read(KeyRange("/leased"))).found[0].lease == lease.id
        assert await store.keep_alive(lease.id) == lease.ttl_seconds
        await store.revoke(lease.id)
        assert (await store.read(KeyRange("/leased"))).found == ()
        assert await store.keep_alive(lease.id) == 0
        await store.revoke(lease.id)
        with pytest.raises(Rejected, match="lease"):
            await store.txn(Txn(compare=(), success=(Put("/leased", b"x", lease=lease.id),)))

    with_store(_options(*etcd.endpoints), use)


def test_more_operations_than_allowed_are_refused_before_sending() -> None:
    async def use(store: EtcdStore) -> None:
        with pytest.raises(TooManyOperations, match="129.*128"):
            await store.txn(Txn(compare=(), success=(), failure=tuple(Put(f"/{n}", b"") for n in range(129))))

    with_store(_options(refusing_endpoint()), use)


def test_etcds_own_limits_are_definite_refusals(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        with pytest.raises(Rejected, match="too many operations"):
            await store.txn(Txn(compare=(), success=tuple(Put(f"/many/{n}", b"") for n in range(129))))
        with pytest.raises(Rejected, match="duplicate key"):
            await store.txn(Txn(compare=(), success=(Put("/many/1", b""), Put("/many/1", b""))))
        for size in (1_600_000, 3_000_000):  # refused by etcd, and by its gRPC before that
            with pytest.raises(Rejected, match="larg"):
                await store.txn(put("/many/1", b"x" * size))
        assert (await store.read(KeyRange("/many/", prefix=True))).found == ()

    with_store(_options(*etcd.endpoints, max_txn_ops=1000), use)


def test_an_endpoint_that_never_answers_costs_one_bounded_try(etcd: EmbeddedEtcd) -> None:
    with silent_endpoint() as silent:

        async def use(store: EtcdStore) -> None:
            start = time.monotonic()
            await store.txn(put("/silent"))
            first_took = time.monotonic() - start
            start = time.monotonic()
            await store.txn(put("/silent"))
            assert first_took < TRY_SECONDS + SLACK_SECONDS
            assert time.monotonic() - start < SLACK_SECONDS / 2  # it is left alone from then on

        with_store(_options(silent, *etcd.endpoints), use)


def test_nobody_there_is_unreachable_and_each_endpoint_is_named_with_its_reason() -> None:
    with silent_endpoint() as silent:
        refusing = refusing_endpoint()

        async def use(store: EtcdStore) -> str:
            start = time.monotonic()
            with pytest.raises(Unreachable) as refused:
                await store.txn(put("/nobody"))
            assert time.monotonic() - start < 2 * TRY_SECONDS
            return str(refused.value)

        text = with_store(_options(refusing, silent), use)
    assert f"{refusing}: " in text
    assert "Connection refused" in text
    assert f"{silent}: no answer in time" in text


def test_a_hung_member_leaves_the_outcome_unknown_and_the_next_member_is_used(cluster: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        await store.txn(put("/hung", b"before"))
        start = time.monotonic()
        await asyncio.to_thread(cluster.pause, 0)
        try:
            with pytest.raises(OutcomeUnknown, match=cluster.endpoints[0]):
                await store.txn(put("/hung", b"during"))
            assert time.monotonic() - start < TRY_SECONDS + SLACK_SECONDS
            found = await _patiently(store, get("/hung"))
            assert found in (b"before", b"during")
        finally:
            await asyncio.to_thread(cluster.resume, 0)

    with_store(_options(*cluster.endpoints), use)


async def _patiently(store: EtcdStore, txn: Txn) -> bytes:
    """Through an election, if the hung member led; bounded by the caller."""
    while True:
        try:
            return (await store.txn(txn)).replies[0][0].value
        except (OutcomeUnknown, Unreachable):
            continue


def test_a_transaction_whose_answer_was_lost_is_not_sent_again(etcd: EmbeddedEtcd) -> None:
    """The one that hung is applied once etcd runs again; a repetition under its other name would write twice."""
    other_name = etcd.endpoints[0].replace("127.0.0.1", "localhost")

    async def use(store: EtcdStore) -> None:
        before = (await store.txn(put("/once"))).revision
        await asyncio.to_thread(etcd.pause)
        try:
            with pytest.raises(OutcomeUnknown):
                await store.txn(put("/once"))
        finally:
            await asyncio.to_thread(etcd.resume)
        after = await store.txn(put("/once"))
        assert after.revision - before <= 2

    with_store(_options(*etcd.endpoints, other_name), use)


def test_a_killed_etcd_is_unreachable_and_used_again_when_it_is_back(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        await store.txn(put("/killed"))
        await asyncio.to_thread(etcd.kill)
        with pytest.raises((Unreachable, OutcomeUnknown)):
            await store.txn(put("/killed", b"lost"))
        with pytest.raises(Unreachable):
            await store.read(KeyRange("/killed"))
        await asyncio.to_thread(etcd.restart)
        assert await _patiently(store, get("/killed")) == b"x"

    with_store(_options(*etcd.endpoints), use)


def test_cancelling_the_caller_is_not_turned_into_an_error(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        await store.txn(put("/cancelled"))
        await asyncio.to_thread(etcd.pause)
        try:
            call = asyncio.create_task(store.txn(put("/cancelled")))
            await asyncio.wait({call}, timeout=0.05)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            closed = asyncio.create_task(store.txn(put("/cancelled")))
            await asyncio.wait({closed}, timeout=0.05)
            await store.close()
            with pytest.raises(OutcomeUnknown, match="closed"):
                await closed
        finally:
            await asyncio.to_thread(etcd.resume)

    with_store(_options(*etcd.endpoints), use)


@pytest.mark.parametrize("binary", binaries())
def test_a_full_database_leaves_the_outcome_unknown_and_shows_as_an_alarm(binary: str) -> None:
    async def use(store: EtcdStore) -> None:
        with pytest.raises(OutcomeUnknown, match="database space exceeded"):
            for number in range(100):
                await store.txn(put(f"/fill/{number}", b"x" * 100_000))
        (report,) = await store.inspect()
        assert report.alarms == ("NOSPACE",)
        assert (await store.read(KeyRange("/fill/0"))).found

    with EmbeddedEtcd(binary=binary, extra_args=("--quota-backend-bytes=1000000",)) as full:
        with_store(_options(*full.endpoints), use)


def test_inspect_tells_every_endpoint_apart(cluster: EmbeddedEtcd) -> None:
    refusing = refusing_endpoint()
    options = _options(*cluster.endpoints, refusing)
    *members, missing = with_store(options, EtcdStore.inspect)
    assert [report.endpoint for report in members] == list(cluster.endpoints)
    assert [report.is_leader for report in members].count(True) == 1
    assert len({report.member_id for report in members}) == len(members)
    for report in members:
        assert report.reachable
        assert report.version.startswith("3.")
        assert report.db_size_bytes > 0
        assert 0 < report.latency_seconds < TRY_SECONDS
        assert report.alarms == ()
    assert (missing.endpoint, missing.reachable) == (refusing, False)
    assert "Connection refused" in missing.error
