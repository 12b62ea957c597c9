"""What a real etcd cannot be brought to say in a test: cancelled watches, streams that end, refusals of one member."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest

from etcdlock.adapters.etcd import EtcdOptions
from etcdlock.errors import EtcdlockError, OutcomeUnknown, Unreachable, WatchCancelled, WatchCompacted
from etcdlock.ports import KeyRange
from tests.contract.etcds import DEADLINE_SECONDS, no_task_left, opened, put
from tests.contract.room import take
from tests.contract.scripted import MESSAGES, ScriptedEtcd, Stream, serving

TRY_SECONDS = 0.5
ALL = [KeyRange("/", prefix=True)]


def created(**fields: Any) -> Any:
    return MESSAGES.WatchResponse(created=True, **fields)


def changed(*revisions: int) -> Any:
    events = [{"type": "PUT", "kv": {"key": b"/a", "value": b"v", "mod_revision": number}} for number in revisions]
    return MESSAGES.WatchResponse(events=events)


async def ends(_request: Any, _call: Any) -> AsyncIterator[Any]:
    """One revision, and the stream is over."""
    yield created()
    yield changed(11, 11)


async def breaks(_request: Any, call: Any) -> AsyncIterator[Any]:
    """One revision, and the member goes down."""
    yield created()
    yield changed(11, 11)
    await call.abort(grpc.StatusCode.UNAVAILABLE, "etcdserver: server stopped")


async def loses_its_leader(_request: Any, call: Any) -> AsyncIterator[Any]:
    """One revision, and the member is cut off from its cluster."""
    yield created()
    yield changed(11, 11)
    await call.abort(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")


async def goes_on(request: Any, _call: Any) -> AsyncIterator[Any]:
    """The next revision from where it was asked."""
    yield created()
    yield changed(request.start_revision)
    await asyncio.Event().wait()


async def compacted(_request: Any, _call: Any) -> AsyncIterator[Any]:
    yield created()
    yield MESSAGES.WatchResponse(canceled=True, compact_revision=50)


async def cancelled(_request: Any, _call: Any) -> AsyncIterator[Any]:
    yield created()
    yield MESSAGES.WatchResponse(canceled=True, cancel_reason="etcdserver: watch is of no use")


async def watched(*streams: Stream, count: int) -> tuple[list[int], list[int]]:
    """The revisions seen, and the revisions from which each stream was asked for."""
    etcd = ScriptedEtcd(*streams)
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        no_task_left(),
        serving(etcd) as endpoint,
        opened(EtcdOptions(endpoints=(endpoint,), try_timeout_seconds=TRY_SECONDS)) as store,
        aclosing(store.watch(ALL, after_revision=10)) as events,
    ):
        seen = [event.revision for event in await take(events, count)]
    assert etcd.told_of_lost_leaders
    return seen, [request.start_revision for request in etcd.asked]


@pytest.mark.parametrize("first", [ends, breaks, loses_its_leader])
def test_a_watch_whose_stream_ends_goes_on_after_the_last_revision_it_told(first: Stream) -> None:
    assert asyncio.run(watched(first, goes_on, count=3)) == ([11, 11, 12], [11, 12])


def test_a_watch_whose_stream_ends_while_its_silent_member_is_asked_goes_on_and_leaves_no_error_in_the_log() -> None:
    assert asyncio.run(_watched_member_that_loses_its_leader()) == ([11], [])


async def _watched_member_that_loses_its_leader() -> tuple[list[int], list[str]]:
    """The revisions seen, and what the event loop had to complain of."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))

    async def ends_when_asked(_request: Any, call: Any) -> AsyncIterator[Any]:
        yield created()
        await etcd.read_begins.wait()
        asyncio.get_running_loop().call_later(TRY_SECONDS / 4, etcd.read_ends.set)
        await call.abort(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")

    etcd = ScriptedEtcd(ends_when_asked, goes_on)
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        serving(etcd) as endpoint,
        opened(EtcdOptions(endpoints=(endpoint,), try_timeout_seconds=TRY_SECONDS)) as store,
        aclosing(store.watch(ALL, after_revision=10)) as events,
    ):
        seen = [event.revision for event in await take(events, 1)]
    gc.collect()
    return seen, complaints


def test_a_watch_that_was_away_too_long_is_told_of_the_compaction() -> None:
    with pytest.raises(WatchCompacted, match=r"up to revision 50.*from 12"):
        asyncio.run(watched(breaks, compacted, count=3))


def test_a_watch_that_etcd_cancels_ends_with_its_reason() -> None:
    with pytest.raises(WatchCancelled, match="of no use"):
        asyncio.run(watched(cancelled, count=1))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (grpc.StatusCode.UNAVAILABLE, "etcdserver: rpc not supported for learner"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests"),
    ],
)
def test_a_member_that_cannot_take_a_transaction_now_lets_the_next_one_have_it(
    code: grpc.StatusCode, text: str
) -> None:
    first, second, error = asyncio.run(_sent_to_two((code, text)))
    assert (first, second) == (1, 1)
    assert type(error) is Unreachable


def test_a_transaction_of_unknown_outcome_is_not_given_to_the_next_member() -> None:
    first, second, error = asyncio.run(_sent_to_two((grpc.StatusCode.UNAVAILABLE, "etcdserver: leader changed")))
    assert (first, second) == (1, 0)
    assert type(error) is OutcomeUnknown


async def _sent_to_two(txn_error: tuple[grpc.StatusCode, str]) -> tuple[int, int, EtcdlockError]:
    """How many transactions each of two members got, and what came of it."""
    first, second = (ScriptedEtcd(goes_on, txn_error=txn_error) for _ in range(2))
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        serving(first) as one,
        serving(second) as other,
        opened(EtcdOptions(endpoints=(one, other), try_timeout_seconds=TRY_SECONDS)) as store,
    ):
        with pytest.raises(EtcdlockError) as raised:
            await store.txn(put("/a"))
    return first.txns, second.txns, raised.value
