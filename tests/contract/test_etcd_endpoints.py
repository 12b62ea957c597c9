"""Which endpoint of a real etcd is used, what one that fails or falls silent costs, and what each says of itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.errors import OutcomeUnknown, Unreachable
from etcdlock.etcdversion import Standing, judge_version
from etcdlock.ports import KeyRange
from tests.contract.certificates import Authority
from tests.contract.etcds import (
    breakable_path,
    connections_to,
    opened,
    patiently,
    paused,
    put,
    refusing_endpoint,
    silent_endpoint,
    with_store,
)

TRY_SECONDS = 0.5
SLACK_SECONDS = 0.4

CALLS: dict[str, Callable[[EtcdStore], Awaitable[object]]] = {
    "txn": lambda store: store.txn(put("/bounded")),
    "read": lambda store: store.read(KeyRange("/bounded")),
    "grant": lambda store: store.grant(ttl_seconds=5),
    "keep_alive": lambda store: store.keep_alive(1),
    "revoke": lambda store: store.revoke(1),
}


def _options(*endpoints: str) -> EtcdOptions:
    return EtcdOptions(endpoints=endpoints, try_timeout_seconds=TRY_SECONDS)


async def _seconds(call: Awaitable[object]) -> float:
    start = time.monotonic()
    await call
    return time.monotonic() - start


def test_an_endpoint_that_refuses_costs_no_time_and_the_next_one_serves(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        assert await _seconds(store.txn(put("/refusing"))) < SLACK_SECONDS

    with_store(_options(refusing_endpoint(), *etcd.endpoints), use)


def test_an_endpoint_that_never_answers_costs_one_bounded_try_and_is_then_left_alone(etcd: EmbeddedEtcd) -> None:
    with silent_endpoint() as silent:

        async def use(store: EtcdStore) -> None:
            assert await _seconds(store.txn(put("/silent"))) < TRY_SECONDS + SLACK_SECONDS
            for call in CALLS.values():
                assert await _seconds(call(store)) < SLACK_SECONDS / 2

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


def test_an_endpoint_that_is_silent_in_the_middle_of_tls_costs_one_bounded_try(tmp_path: Path) -> None:
    ca_file = Authority(tmp_path, name="ours").ca_file
    with silent_endpoint() as silent:

        async def use(store: EtcdStore) -> None:
            start = time.monotonic()
            with pytest.raises(Unreachable, match="no answer in time"):
                await store.txn(put("/silent"))
            assert time.monotonic() - start < TRY_SECONDS + SLACK_SECONDS

        with_store(EtcdOptions(endpoints=(silent,), try_timeout_seconds=TRY_SECONDS, ca_file=ca_file), use)


@pytest.mark.parametrize("name", CALLS)
def test_every_call_to_an_etcd_that_hangs_ends_in_time(etcd: EmbeddedEtcd, name: str) -> None:
    async def use(store: EtcdStore) -> None:
        await store.txn(put("/bounded"))
        async with paused(etcd):
            start = time.monotonic()
            with pytest.raises(OutcomeUnknown if name == "txn" else Unreachable, match="no answer in time"):
                await CALLS[name](store)
            assert time.monotonic() - start < TRY_SECONDS + SLACK_SECONDS

    with_store(_options(*etcd.endpoints), use)


def test_an_etcd_that_hung_is_used_again_as_soon_as_it_answers(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        await store.txn(put("/hung"))
        async with paused(etcd):
            with pytest.raises(Unreachable):
                await store.read(KeyRange("/hung"))
        assert await _seconds(store.read(KeyRange("/hung"))) < SLACK_SECONDS

    with_store(_options(*etcd.endpoints), use)


def test_a_connection_that_fell_silent_is_replaced_and_not_waited_for(etcd: EmbeddedEtcd) -> None:
    """As when a firewall on the way forgets it: etcd is well, and TCP would take minutes to give up."""

    async def use() -> None:
        async with breakable_path(etcd.endpoints[0]) as (endpoint, silence), opened(_options(endpoint)) as store:
            await store.txn(put("/path"))
            silence()
            with pytest.raises(OutcomeUnknown, match="no answer in time"):
                await store.txn(put("/path"))
            assert await _seconds(store.txn(put("/path"))) < SLACK_SECONDS

    asyncio.run(use())


def test_when_a_member_of_a_cluster_hangs_the_next_one_is_used(cluster: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        await store.txn(put("/member", b"before"))
        async with paused(cluster, 0):
            start = time.monotonic()
            with pytest.raises(OutcomeUnknown, match=cluster.endpoints[0]):
                await store.txn(put("/member", b"during"))
            assert time.monotonic() - start < TRY_SECONDS + SLACK_SECONDS
            assert await patiently(store, "/member") in (b"before", b"during")

    with_store(_options(*cluster.endpoints), use)


def test_a_member_that_has_lost_its_cluster_is_passed_over_and_nothing_is_sent_to_it(cluster: EmbeddedEtcd) -> None:
    async def until_it_says_so() -> None:
        said = ""
        while "sees no leader" not in said:
            async with opened(_options(cluster.endpoints[0])) as store:
                with pytest.raises((Unreachable, OutcomeUnknown)) as refused:
                    await store.txn(put("/alone"))
                said = str(refused.value)
        assert refused.type is Unreachable

    async def use(store: EtcdStore) -> None:
        async with paused(cluster, 1), paused(cluster, 2):
            await until_it_says_so()
        await patiently(store, "/alone", make=b"together again")

    with_store(_options(*cluster.endpoints), use)


def test_a_killed_etcd_is_unreachable_and_used_again_when_it_is_back(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        await store.txn(put("/killed"))
        await asyncio.to_thread(etcd.kill)
        try:
            with pytest.raises((Unreachable, OutcomeUnknown)):
                await store.txn(put("/killed", b"lost"))
            with pytest.raises(Unreachable):
                await store.read(KeyRange("/killed"))
        finally:
            await asyncio.to_thread(etcd.restart)
        assert await patiently(store, "/killed") == b"x"

    with_store(_options(*etcd.endpoints), use)


def test_closing_the_store_lets_go_of_every_connection(etcd: EmbeddedEtcd) -> None:
    """Also of the one that fell silent and was replaced."""
    (endpoint,) = etcd.endpoints

    async def use() -> None:
        async with opened(_options(endpoint)) as store:
            await store.txn(put("/connected"))
            async with paused(etcd):
                with pytest.raises(Unreachable):
                    await store.read(KeyRange("/connected"))
            await store.read(KeyRange("/connected"))
            assert connections_to(endpoint)
        deadline = time.monotonic() + 5
        while connections_to(endpoint):  # they are closed by a thread of gRPC
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    asyncio.run(use())


def test_inspect_tells_every_endpoint_apart(cluster: EmbeddedEtcd) -> None:
    refusing = refusing_endpoint()
    options = _options(*cluster.endpoints, refusing)
    *members, missing = with_store(options, EtcdStore.inspect)
    assert [report.endpoint for report in members] == list(cluster.endpoints)
    assert [report.is_leader for report in members].count(True) == 1
    assert len({report.member_id for report in members}) == len(members)
    for report in members:
        assert report.reachable
        assert report.db_size_bytes > 0
        assert 0 < report.latency_seconds < TRY_SECONDS
        assert report.alarms == ()
    assert (missing.endpoint, missing.reachable) == (refusing, False)
    assert "Connection refused" in missing.error


def test_inspecting_an_etcd_that_hangs_ends_in_time(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        await store.txn(put("/hung"))
        async with paused(etcd):
            start = time.monotonic()
            (report,) = await store.inspect()
            assert time.monotonic() - start < TRY_SECONDS + SLACK_SECONDS
        assert not report.reachable
        assert "no answer in time" in report.error

    with_store(_options(*etcd.endpoints), use)


def test_the_version_that_a_member_states_can_be_judged(etcd: EmbeddedEtcd) -> None:
    """3.5.1 loses data; Debian's 3.4 only revokes leases wrongly and answers reads from old states."""
    (report,) = with_store(_options(*etcd.endpoints), EtcdStore.inspect)
    verdict = judge_version(report.version)
    assert report.version in verdict.text
    if report.version.startswith("3.5.1"):
        assert verdict.standing is Standing.REFUSE
    else:
        assert verdict.standing is Standing.WARN
