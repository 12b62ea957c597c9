"""What every store's watches must do: order, resumption, deletions, several ranges, compaction."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from etcdlock.errors import WatchCancelled, WatchCompacted
from etcdlock.ports import Delete, Event, KeyRange, Put
from tests.contract.room import Room, in_room, take


@in_room
async def test_a_watch_tells_the_past_after_its_revision_and_then_what_comes(room: Room) -> None:
    start = await room.put("a", b"1")
    second = await room.put("a", b"2")
    third = await room.delete("a")
    async with aclosing(room.watch(after_revision=start)) as stream:
        assert await take(stream, 2) == [
            Event(room.key("a"), b"2", second),
            Event(room.key("a"), None, third),
        ]
        fourth = await room.put("a", b"4")
        assert await anext(stream) == Event(room.key("a"), b"4", fourth)


@in_room
async def test_a_watch_goes_on_where_another_one_ended(room: Room) -> None:
    start = await room.revision()
    revisions = [await room.put("a", f"{number}".encode()) for number in range(5)]
    first_two = await room.events(2, after_revision=start)
    rest = await room.events(3, after_revision=first_two[-1].revision)
    assert [event.revision for event in first_two + rest] == revisions


@in_room
async def test_changes_of_one_transaction_come_together_and_in_their_order(room: Room) -> None:
    start = await room.put("old")
    result = await room.do(Put(room.key("b"), b""), Delete(KeyRange(room.key("old"))), Put(room.key("a"), b""))
    assert await room.events(3, after_revision=start) == [
        Event(room.key("b"), b"", result.revision),
        Event(room.key("old"), None, result.revision),
        Event(room.key("a"), b"", result.revision),
    ]


@in_room
async def test_several_ranges_are_one_stream_in_the_order_of_revisions_and_the_rest_is_left_out(room: Room) -> None:
    start = await room.revision()
    names = ["hosts/1", "domains/1", "between", "lost/1", "hosts/2", "exact", "domains/2", "exactly", "lost/1"]

    async def write() -> None:
        for name in names:
            await room.put(name)

    await write()
    ranges = (room.below("hosts/"), room.below("lost/"), KeyRange(room.key("exact")))
    wanted = [room.key(name) for name in names if name.startswith(("hosts/", "lost/")) or name == "exact"]
    async with aclosing(room.watch(*ranges, after_revision=start)) as stream:
        past = await take(stream, len(wanted))
        await write()
        live = await take(stream, len(wanted))
    assert [event.key for event in past] == [event.key for event in live] == wanted
    revisions = [event.revision for event in past + live]
    assert revisions == sorted(set(revisions))


@in_room
async def test_a_watch_may_begin_in_the_future(room: Room) -> None:
    now = await room.revision()
    async with aclosing(room.watch(after_revision=now + 1)) as stream:
        first = asyncio.ensure_future(anext(stream))
        await room.put("a", b"not this one")
        revision = await room.put("a", b"this one")
        assert await first == Event(room.key("a"), b"this one", revision)


@in_room
async def test_keys_that_die_with_their_lease_are_seen_to_go(room: Room) -> None:
    lease = await room.store.grant(ttl_seconds=30)
    await room.put("b", lease=lease.id)
    start = await room.put("a", lease=lease.id)
    await room.store.revoke(lease.id)
    assert await room.events(2, after_revision=start) == [
        Event(room.key("a"), None, start + 1),
        Event(room.key("b"), None, start + 1),
    ]


@in_room
async def test_two_watches_see_the_same(room: Room) -> None:
    start = await room.revision()
    other = room.open_store()
    await room.put("a")
    await room.put("b")
    seen = await room.events(2, after_revision=start)
    async with aclosing(room.watch_of(other, after_revision=start)) as stream:
        assert await take(stream, 2) == seen


@in_room
async def test_a_closed_watch_leaves_the_store_usable(room: Room) -> None:
    start = await room.put("a")
    stream = room.watch(after_revision=start)
    waiting = asyncio.ensure_future(anext(stream))
    await room.put("b")
    assert (await waiting).key == room.key("b")
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert await room.get("b") is not None


@in_room
async def test_a_watch_ends_with_its_store_and_none_begins_on_a_closed_one(room: Room) -> None:
    other, start = room.open_store(), await room.put("a")
    stream = room.watch_of(other, after_revision=start - 1)
    assert (await anext(stream)).revision == start
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await other.close()
    for ended in (waiting, anext(room.watch_of(other, after_revision=start - 1))):
        with pytest.raises(WatchCancelled, match="closed"):
            await ended


@in_room
async def test_a_watch_from_before_compaction_is_told_so(room: Room) -> None:
    start = await room.put("a", b"1")
    for value in (b"2", b"3", b"4"):
        last = await room.put("a", value)
    await room.compact(last)
    for after in (0, start, last - 2):
        with pytest.raises(WatchCompacted):
            await room.events(1, after_revision=after)


@in_room
async def test_a_watch_from_the_compacted_revision_on_goes_on(room: Room) -> None:
    await room.put("a", b"1")
    last = await room.put("a", b"2")
    await room.compact(last)
    assert await room.events(1, after_revision=last - 1) == [Event(room.key("a"), b"2", last)]
    later = await room.put("a", b"3")
    assert await room.events(1, after_revision=last) == [Event(room.key("a"), b"3", later)]


@in_room
async def test_a_deletion_at_exactly_the_compacted_revision_is_never_told(room: Room) -> None:
    """etcd takes the watch and leaves the deletion out: why no decision may rest on an event that did not come."""
    await room.put("a")
    deleted = await room.delete("a")
    await room.compact(deleted)
    after = await room.put("b")
    assert await room.events(1, after_revision=deleted - 1) == [Event(room.key("b"), b"v", after)]


@in_room
async def test_a_running_watch_outlives_compaction(room: Room) -> None:
    start = await room.put("a", b"1")
    async with aclosing(room.watch(after_revision=start)) as stream:
        second = await room.put("a", b"2")
        assert (await anext(stream)).revision == second
        await room.compact(second)
        third = await room.put("a", b"3")
        assert (await anext(stream)).revision == third
