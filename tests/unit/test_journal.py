"""The journal: events are kept, followed and heard, and noting one waits for nobody."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import threading
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest

from etcdlock.errors import Unreachable
from etcdlock.journal import LONGEST_TEXT, Event, Follower, Journal, follow, note
from etcdlock.model import DomainId, LockState
from tests.unit.records_in_etcd import VM


def happen(journal: Journal, *names: str, level: int = logging.INFO, **fields: object) -> None:
    for name in names:
        journal.add(name, level=level, fields=fields)


async def read(follower: Follower, count: int) -> list[str]:
    return [(await anext(follower)).name for _ in range(count)]


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await scenario

    asyncio.run(bounded())


def test_a_follower_gets_what_happens_from_now_on_in_order() -> None:
    async def scenario() -> None:
        journal = Journal()
        happen(journal, "before")
        follower = journal.follow()
        happen(journal, "first", "second")
        assert await read(follower, 2) == ["first", "second"]
        reading = asyncio.ensure_future(read(follower, 1))
        await asyncio.sleep(0)
        happen(journal, "third")
        assert await reading == ["third"]

    run(scenario())


def test_followers_do_not_take_events_from_one_another() -> None:
    async def scenario() -> None:
        journal = Journal()
        followers = [journal.follow(), journal.follow()]
        reading = [asyncio.ensure_future(read(follower, 2)) for follower in followers]
        await asyncio.sleep(0)
        happen(journal, "one", "two")
        assert await asyncio.gather(*reading) == [["one", "two"], ["one", "two"]]

    run(scenario())


def test_a_follower_that_is_too_slow_gets_the_latest_events_and_the_number_of_those_it_missed() -> None:
    async def scenario() -> None:
        journal = Journal(kept=3)
        follower = journal.follow()
        happen(journal, *"abcde")
        assert await read(follower, 1) == ["c"]
        assert follower.dropped == 2
        happen(journal, *"fgh")
        assert await read(follower, 3) == ["f", "g", "h"]
        assert follower.dropped == 4

    run(scenario())


@pytest.mark.parametrize(("after", "got"), [(2, ["c", "d"]), (0, ["a", "b", "c", "d"]), (-5, ["a", "b", "c", "d"])])
def test_a_reader_that_comes_back_goes_on_behind_the_last_event_it_had(after: int, got: list[str]) -> None:
    async def scenario() -> None:
        journal = Journal()
        happen(journal, *"abcd")
        follower = journal.follow(after=after)
        assert await read(follower, len(got)) == got
        assert follower.dropped == 0

    run(scenario())


def test_a_reader_that_claims_to_have_seen_the_future_waits_for_the_next_event() -> None:
    async def scenario() -> None:
        journal = Journal()
        happen(journal, "a")
        follower = journal.follow(after=1000)
        happen(journal, "b")
        assert await read(follower, 1) == ["b"]

    run(scenario())


def test_a_follower_that_stops_waiting_loses_nothing_and_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        journal = Journal()
        follower = journal.follow()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(follower)
        happen(journal, "a")
        assert await read(follower, 1) == ["a"]

    run(scenario())


def test_events_from_other_threads_wake_a_follower_and_each_has_its_own_number() -> None:
    async def scenario() -> None:
        journal = Journal(kept=1000)
        follower = journal.follow()
        threads = [threading.Thread(target=happen, args=(journal, *("x" * 100))) for _ in range(4)]
        reading = asyncio.ensure_future(anext(follower))
        await asyncio.sleep(0)
        for thread in threads:
            thread.start()
        numbers = [(await reading).number] + [(await anext(follower)).number for _ in range(399)]
        assert numbers == list(range(1, 401))
        for thread in threads:
            thread.join()

    run(scenario())


def test_a_follower_whose_loop_has_been_closed_disturbs_nobody() -> None:
    journal = Journal()
    loop = asyncio.new_event_loop()
    abandoned = journal.beyond(0)
    loop.call_soon(lambda: abandoned.send(None))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    happen(journal, "a")
    assert journal.last == 1
    with pytest.raises(asyncio.CancelledError):
        abandoned.throw(asyncio.CancelledError())


def test_what_comes_with_every_heartbeat_is_heard_but_pushes_nothing_out() -> None:
    journal, heard = Journal(kept=1), list[Event]()
    with journal.listening(heard.append):
        happen(journal, "session_lost")
        happen(journal, *["heartbeat"] * 5, level=logging.DEBUG)
    happen(journal, "heartbeat", level=logging.DEBUG)
    assert [event.name for event in heard] == ["session_lost", *["heartbeat"] * 5]
    kept = journal.first_after(0)
    assert kept is not None
    assert kept.name == "session_lost"


def test_an_event_keeps_words_and_numbers_and_lets_go_of_what_it_tells_of() -> None:
    journal = Journal()
    error = Unreachable("x" * 5000)
    fields = {"domain": VM, "state": LockState.HELD, "token": 7, "ok": True, "none": None, "odd": float("nan")}
    journal.add("refused", level=logging.INFO, fields={**fields, "error": error})
    kept = journal.first_after(0)
    assert kept is not None
    assert json.loads(json.dumps(dict(kept.fields), allow_nan=False)) == {
        "domain": str(VM), "state": "held", "token": 7, "ok": True, "none": None, "odd": "nan",
        "error": "x" * (LONGEST_TEXT - 1) + "…",
    }  # fmt: skip
    assert all(type(value) in (str, int, bool, type(None)) for value in kept.fields.values())
    gone = weakref.ref(error)
    del error
    gc.collect()
    assert gone() is None


def test_an_event_tells_when_it_happened_with_its_zone_and_how_bad_it_is() -> None:
    journal = Journal()
    happen(journal, "guard_replaced", level=logging.ERROR)
    kept = journal.first_after(0)
    assert kept is not None
    assert kept.at.utcoffset() is not None
    assert kept.level_name == "error"


def test_the_memory_of_a_journal_does_not_grow_with_what_happens() -> None:
    journal = Journal(kept=16)
    journal.follow()
    happen(journal, *["a"] * 16)
    before = sys.getallocatedblocks()
    happen(journal, *["a"] * 10_000)
    assert sys.getallocatedblocks() - before < 1000


def test_what_is_noted_anywhere_in_this_program_reaches_its_followers(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        follower = follow()
        note("rejoined", level=logging.WARNING, domain=DomainId(VM.uuid, "vm9"))
        event = await anext(follower)
        assert (event.name, event.level, dict(event.fields)) == ("rejoined", logging.WARNING, {"domain": "vm9"})

    run(scenario())
