"""Events for the log and for whoever follows them: a fixed name and fields, never a sentence to be parsed.

Guaranteed: noting an event waits for nobody and its memory is bounded, however slow a follower is and whether there is
one at all. A follower gets every event that is still kept, in order, once; how many it missed is counted. What is kept
is plain text and numbers, cut short where it is long: no record holds on to what it tells of.

Not kept are events below `logging.INFO`, which come with every heartbeat: they reach the log and `listen` alone.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

_LOGGER = logging.getLogger("etcdlock")

KEPT_EVENTS = 1024
LONGEST_TEXT = 1024
"""Characters of a field that are kept; the log has all of them."""

Plain = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `number` counts the kept ones from 1, 0 for one that is not; `at` is for people."""

    number: int
    at: datetime
    name: str
    level: int
    fields: Mapping[str, Plain]

    @property
    def level_name(self) -> str:
        """`info`, `warning`, `error` or `critical`."""
        return logging.getLevelName(self.level).lower()


Listener = Callable[[Event], None]


class Journal:
    """The latest events of this program. May be written to from any thread; `name` tells it from any other journal."""

    def __init__(self, *, kept: int = KEPT_EVENTS) -> None:
        self.name = os.urandom(4).hex()
        self._kept: deque[Event] = deque(maxlen=kept)
        self._last = 0
        self._lock = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def last(self) -> int:
        """The latest number given."""
        return self._last

    def add(self, name: str, /, *, level: int, fields: Mapping[str, object]) -> None:
        """Keep it, and tell those who listen or wait."""
        if level < logging.INFO and not self._listeners:
            return
        event = self._kept_as(name, level, {key: _plain(value) for key, value in fields.items()})
        for listener in self._listeners:
            listener(event)
        if event.number:
            self.wake()

    def first_after(self, number: int, /) -> Event | None:
        """The oldest kept event behind that number; those in between are gone."""
        with self._lock:
            if number >= self._last:
                return None
            return self._kept[max(number + 1 - self._kept[0].number, 0)]

    def follow(self, *, after: int | None = None) -> Follower:
        """Events behind the number `after`, or from now on, as they come."""
        return Follower(self, after=self._last if after is None else min(max(after, 0), self._last))

    @contextmanager
    def listening(self, listener: Listener, /) -> Iterator[None]:
        """Inside, call it with every event, also those that are not kept. It must neither raise nor wait."""
        with self._lock:
            self._listeners = (*self._listeners, listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other != listener)

    async def beyond(self, number: int, /) -> None:
        """Come back when there is an event behind that number, or on `wake`."""
        import asyncio

        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._last > number:
                return
            self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    def _kept_as(self, name: str, level: int, fields: Mapping[str, Plain], /) -> Event:
        at = datetime.now(UTC)
        if level < logging.INFO:
            return Event(0, at, name, level, fields)
        with self._lock:
            self._last += 1
            event = Event(self._last, at, name, level, fields)
            self._kept.append(event)
        return event

    def wake(self) -> None:
        """Have everybody who waits look again."""
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        for one in waiting:
            with suppress(RuntimeError):  # its loop has been closed: nobody waits there any more
                one.get_loop().call_soon_threadsafe(_come_back, one)


class Follower:
    """One reader's place in a journal; it costs the journal nothing. `async for` over it goes on until `end`."""

    def __init__(self, journal: Journal, /, *, after: int) -> None:
        self._journal = journal
        self._seen = after
        self._ended = False
        self.dropped = 0
        """How many events were gone before this reader came to them."""

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Event:
        """The next event that is still kept. When cancelled, nothing is lost."""
        while (event := self._journal.first_after(self._seen)) is None:
            if self._ended:
                raise StopAsyncIteration
            await self._journal.beyond(self._seen)
        self.dropped += event.number - self._seen - 1
        self._seen = event.number
        return event

    def end(self) -> None:
        """Nothing more is waited for; what is there already is still given."""
        self._ended = True
        self._journal.wake()


JOURNAL = Journal()
"""This program's."""


def note(event: str, /, *, level: int = logging.INFO, **fields: object) -> None:
    """Log `event` with its fields; both stay readable on the record as `record.event` and `record.fields`."""
    JOURNAL.add(event, level=level, fields=fields)
    _LOGGER.log(level, "%s", event, extra={"event": event, "fields": fields})


def follow(*, after: int | None = None) -> Follower:
    """This program's events behind the number `after`, or from now on."""
    return JOURNAL.follow(after=after)


class FieldFormatter(logging.Formatter):
    """`time level event key=value …` on one line, values in JSON where they need quoting."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        fields = getattr(record, "fields", {})
        shown = "".join(f" {name}={_shown(value)}" for name, value in fields.items())
        line = f"{self.formatTime(record)} {record.levelname.lower()} {record.getMessage()}{shown}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if text.isprintable() and text and not any(c in text for c in ' "=') else json.dumps(text)


def _plain(value: object) -> Plain:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = str(value)
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


def _come_back(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
