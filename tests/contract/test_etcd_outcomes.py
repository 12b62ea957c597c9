"""What is known after an error of a real etcd: refused for certain, or perhaps applied."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.errors import OutcomeUnknown, Rejected, TooManyOperations, Unreachable
from etcdlock.ports import Compare, Delete, KeyRange, Put, Relation, Target, Txn
from tests.contract.etcds import paused, put, refusing_endpoint, with_store

TRY_SECONDS = 0.5


def _options(*endpoints: str, max_txn_ops: int = 128) -> EtcdOptions:
    return EtcdOptions(endpoints=endpoints, try_timeout_seconds=TRY_SECONDS, max_txn_ops=max_txn_ops)


def test_more_operations_than_allowed_are_refused_before_sending() -> None:
    async def use(store: EtcdStore) -> None:
        with pytest.raises(TooManyOperations, match=r"129.*128"):
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
        with pytest.raises(Rejected, match="TTL"):
            await store.grant(ttl_seconds=10_000_000_000)
        assert (await store.read(KeyRange("/many/", prefix=True))).found == ()

    with_store(_options(*etcd.endpoints, max_txn_ops=1000), use)


def test_a_transaction_whose_answer_was_lost_is_not_sent_again(etcd: EmbeddedEtcd) -> None:
    """The one that hung is applied once etcd runs again; a repetition under its other name would write twice."""
    other_name = etcd.endpoints[0].replace("127.0.0.1", "localhost")

    async def use(store: EtcdStore) -> None:
        before = (await store.txn(put("/once"))).revision
        async with paused(etcd):
            with pytest.raises(OutcomeUnknown):
                await store.txn(put("/once"))
        after = await store.txn(put("/once"))
        assert after.revision - before <= 2

    with_store(_options(*etcd.endpoints, other_name), use)


def test_cancelling_the_caller_is_not_turned_into_an_error(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        await store.txn(put("/cancelled"))
        async with paused(etcd):
            call = asyncio.create_task(store.txn(put("/cancelled")))
            await asyncio.wait({call}, timeout=0.05)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    with_store(_options(*etcd.endpoints), use)


def test_closing_the_store_under_a_transaction_leaves_its_outcome_unknown(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        await store.txn(put("/closed"))
        async with paused(etcd):
            call = asyncio.create_task(store.txn(put("/closed")))
            await asyncio.wait({call}, timeout=0.05)
            await store.close()
            with pytest.raises(OutcomeUnknown, match="closed"):
                await call

    with_store(_options(*etcd.endpoints), use)


def test_closing_the_store_while_it_connects_sends_nothing_and_says_so(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        async with paused(etcd):
            call = asyncio.create_task(store.txn(put("/closed")))
            await asyncio.wait({call}, timeout=0.05)
            await store.close()
            with pytest.raises(Unreachable, match="closed"):
                await call

    with_store(_options(*etcd.endpoints), use)


@pytest.fixture(scope="module")
def full(binary: str) -> Iterator[EmbeddedEtcd]:
    """Its database has no space left, and it holds a key /held."""

    async def fill(store: EtcdStore) -> None:
        await store.txn(put("/held"))
        for number in range(100):
            await store.txn(put(f"/fill/{number}", b"x" * 100_000))

    with EmbeddedEtcd(binary, extra_args=("--quota-backend-bytes=1000000",)) as etcd:
        with pytest.raises(OutcomeUnknown, match="database space exceeded"):
            with_store(_options(*etcd.endpoints), fill)
        yield etcd


def test_a_full_database_leaves_the_outcome_unknown_and_shows_as_an_alarm(full: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        with pytest.raises(OutcomeUnknown, match="database space exceeded"):
            await store.txn(put("/full"))
        with pytest.raises(Unreachable, match="database space exceeded"):  # it may be asked again
            await store.grant(ttl_seconds=5)
        (report,) = await store.inspect()
        assert report.alarms == ("NOSPACE",)
        assert (await store.read(KeyRange("/fill/0"))).found

    with_store(_options(*full.endpoints), use)


def test_a_full_database_still_takes_heartbeats_and_gives_locks_back_unless_it_is_too_old(full: EmbeddedEtcd) -> None:
    """What only compares and deletes needs no space, yet etcd refused that too before 3.4.20 and 3.5.7."""
    held = Compare(KeyRange("/held"), Target.CREATE_REVISION, Relation.GREATER, 0)
    heartbeat, release = (Txn((held,), (Delete(KeyRange(key)),)) for key in ("/never", "/held"))

    async def use(store: EtcdStore) -> None:
        (report,) = await store.inspect()
        if _refuses_everything(report.version):
            with pytest.raises(OutcomeUnknown, match="database space exceeded"):
                await store.txn(heartbeat)
            return
        assert (await store.txn(heartbeat)).succeeded
        assert (await store.txn(release)).succeeded
        assert (await store.read(KeyRange("/held"))).found == ()

    with_store(_options(*full.endpoints), use)


def _refuses_everything(version: str) -> bool:
    """When its database is full."""
    parsed = tuple(int(part) for part in version.split("."))
    return parsed < (3, 4, 20) or (3, 5) <= parsed < (3, 5, 7)
