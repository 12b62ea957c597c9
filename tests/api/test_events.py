"""Following an agent's events over HTTP: in order, from where one was, and never silently short of any."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI

from etcdlock.api.events import Feed
from etcdlock.journal import Journal

LONG = 3600.0


@dataclass(frozen=True, slots=True)
class Told:
    """One event as a reader gets it."""

    id: str
    name: str
    content: dict[str, Any]


class Reader:
    """A client at the end of a connection, that takes a piece when it wants one."""

    def __init__(self, journal: Journal, *, last_event_id: str | None = None, keep_alive_seconds: float = LONG) -> None:
        self.pieces = Feed(journal, keep_alive_seconds=keep_alive_seconds).stream(last_event_id)

    async def begin(self) -> Reader:
        assert (await anext(self.pieces)).startswith(":")
        return self

    async def read(self, count: int) -> list[Told]:
        return [parsed(await anext(self.pieces)) for _ in range(count)]


def parsed(piece: str) -> Told:
    assert piece.endswith("\n\n")
    lines = dict(line.split(": ", 1) for line in piece[:-2].split("\n"))
    assert lines.keys() == {"id", "event", "data"}
    return Told(lines["id"], lines["event"], json.loads(lines["data"]))


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await scenario

    asyncio.run(bounded())


def happen(journal: Journal, *names: str, **fields: object) -> None:
    for name in names:
        journal.add(name, level=logging.WARNING, fields=fields)


def test_a_reader_is_told_what_happens_with_its_fields() -> None:
    async def scenario() -> None:
        journal = Journal()
        happen(journal, "before")
        reader = await Reader(journal).begin()
        happen(journal, "claimed", domain="vm\n\nevent: forged", token=7)
        (told,) = await reader.read(1)
        assert told.name == "claimed"
        assert told.content["fields"] == {"domain": "vm\n\nevent: forged", "token": 7}
        assert told.content["level"] == "warning"
        assert told.content["at"].endswith("+00:00")

    run(scenario())


def test_a_reader_that_comes_back_with_the_last_id_it_had_misses_nothing_and_hears_nothing_twice() -> None:
    async def scenario() -> None:
        journal = Journal()
        first = await Reader(journal).begin()
        happen(journal, *"abc")
        a, b = await first.read(2)
        happen(journal, "d")
        again = await Reader(journal, last_event_id=b.id).begin()
        assert [told.name for told in await again.read(2)] == ["c", "d"]
        assert a.id != b.id

    run(scenario())


def test_a_reader_that_was_too_slow_is_told_how_much_it_has_missed_and_can_go_on_from_there() -> None:
    async def scenario() -> None:
        journal = Journal(kept=2)
        reader = await Reader(journal).begin()
        happen(journal, *"abcde")
        dropped, *rest = await reader.read(3)
        assert (dropped.name, dropped.content) == ("dropped", {"events": 3})
        assert [told.name for told in rest] == ["d", "e"]
        again = await Reader(journal, last_event_id=dropped.id).begin()
        assert [told.name for told in await again.read(2)] == ["d", "e"]
        happen(journal, *"fghi")
        dropped, told = await reader.read(2)
        assert (dropped.name, dropped.content, told.name) == ("dropped", {"events": 2}, "h")

    run(scenario())


@pytest.mark.parametrize("strange", ["another-3", "", "-", "3", "{name}-", "{name}--1", "{name}-x", "x" * 10_000])
def test_an_id_of_another_agent_gets_all_that_is_kept_and_the_word_that_something_may_be_missing(strange: str) -> None:
    async def scenario() -> None:
        journal = Journal(kept=2)
        happen(journal, *"abc")
        given = strange.format(name=journal.name)
        reader = await Reader(journal, last_event_id=given).begin()
        happen(journal, "d")
        if not given:
            assert [told.name for told in await reader.read(1)] == ["d"]
            return
        dropped, *rest = await reader.read(3)
        assert (dropped.name, dropped.content) == ("dropped", {"events": None})
        assert [told.name for told in rest] == ["c", "d"]

    run(scenario())


def test_while_nothing_happens_a_comment_keeps_the_connection_alive_and_costs_no_event() -> None:
    async def scenario() -> None:
        journal = Journal()
        reader = await Reader(journal, keep_alive_seconds=0.001).begin()
        assert (await anext(reader.pieces)).startswith(":")
        assert (await anext(reader.pieces)).startswith(":")
        happen(journal, "a")
        assert [told.name for told in await reader.read(1)] == ["a"]

    run(scenario())


# --- over HTTP ------------------------------------------------------------------------------------------------------


class Connection:
    """A request to the application, as a server would pass it on; the server takes pieces when `room` is there."""

    def __init__(self, journal: Journal, *headers: tuple[bytes, bytes]) -> None:
        self.app = FastAPI()
        self.feed = Feed(journal)
        self.app.include_router(self.feed.router())
        self.scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": "/v1/events", "raw_path": b"/v1/events", "query_string": b"", "root_path": "",
            "headers": [(b"host", b"agent"), *headers], "client": None, "server": None,
        }  # fmt: skip
        self.sent: list[dict[str, Any]] = []
        self.room, self.gone, self.changed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.room.set()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.room.wait()
        self.sent.append(message)
        self.changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self.changed.clear()
            await self.changed.wait()

    @property
    def body(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


def test_over_http_the_events_come_as_an_event_stream_and_end_with_the_reader() -> None:
    async def scenario() -> None:
        journal = Journal()
        happen(journal, "a")
        last = f"{journal.name}-0".encode()
        connection = Connection(journal, (b"last-event-id", last))
        serving = asyncio.ensure_future(connection.app(connection.scope, connection.receive, connection.send))
        await connection.until(lambda: "event: a\n" in connection.body)
        start = connection.sent[0]
        assert start["status"] == 200
        assert dict(start["headers"])[b"content-type"].startswith(b"text/event-stream")
        connection.gone.set()
        await asyncio.wait((serving,))

    run(scenario())


def test_a_reader_whose_connection_is_full_holds_up_nobody_and_keeps_nothing_but_its_place() -> None:
    async def scenario() -> None:
        journal = Journal(kept=4)
        connection = Connection(journal)
        serving = asyncio.ensure_future(connection.app(connection.scope, connection.receive, connection.send))
        await connection.until(lambda: ": follow" in connection.body)
        connection.room.clear()
        for _ in range(100):
            happen(journal, *["x"] * 10)
            await asyncio.sleep(0)
        connection.room.set()
        await connection.until(lambda: f"id: {journal.name}-1000\n" in connection.body)
        read, missed = connection.body.count("event: x\n"), re.findall(r'"events": (\d+)', connection.body)
        assert read < 10
        assert read + sum(map(int, missed)) == 1000
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving

    run(scenario())


def test_when_the_agent_ends_readers_are_told_what_is_left_and_hold_up_nobody() -> None:
    async def scenario() -> None:
        journal = Journal()
        connections = [Connection(journal), Connection(journal)]
        serving = [asyncio.ensure_future(one.app(one.scope, one.receive, one.send)) for one in connections]
        for connection in connections:
            await connection.until(lambda connection=connection: ": follow" in connection.body)  # type: ignore[misc]
        happen(journal, "session_left")
        for connection in connections:
            connection.feed.end()
        await asyncio.gather(*serving)
        assert all("event: session_left\n" in connection.body for connection in connections)
        assert not connections[0].sent[-1].get("more_body")
        late = connections[0]
        late.sent.clear()
        await late.app(late.scope, late.receive, late.send)
        assert late.body == ": follow\n\n"

    run(scenario())
