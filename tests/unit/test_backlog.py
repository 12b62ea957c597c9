"""A log that nobody reads holds up nothing, and says afterwards how much of it is missing."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from etcdlock.cli.backlog import Backlog, logging_in_background

PIPE_BYTES = 4096
DEADLINE_SECONDS = 10.0


@dataclass
class Pipe:
    """A small one, and what has been read from it."""

    reader: int
    writer: int
    read: bytes = b""

    def fill(self) -> None:
        """Whoever writes one byte more waits."""
        os.write(self.writer, b"." * fcntl.fcntl(self.writer, fcntl.F_GETPIPE_SZ))
        assert select.select((), (self.writer,), (), 0)[1] == []

    def rest(self) -> bytes:
        """All of it, once nobody writes any more."""
        os.close(self.writer)
        while piece := os.read(self.reader, 65536):
            self.read += piece
        return self.read

    def until(self, holds: Callable[[bytes], bool]) -> bytes:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not holds(self.read):
            assert time.monotonic() < deadline, self.read[-500:]
            if select.select((self.reader,), (), (), 0.02)[0]:  # what was to come may not be a line
                self.read += os.read(self.reader, 65536)
        return self.read


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield Pipe(reader, writer)
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            continue


@contextmanager
def backlog_to(pipe: Pipe, *, most_lines: int = 8) -> Iterator[tuple[Backlog, logging.Logger]]:
    backlog = Backlog(pipe.writer, most_lines=most_lines)
    logger = logging.getLogger("etcdlock")
    before, logger.handlers, level = logger.handlers, [backlog], logger.level
    logger.setLevel(logging.INFO)
    try:
        yield backlog, logger
    finally:
        logger.handlers = before
        logger.setLevel(level)
        if not backlog.ended:
            pipe.until(lambda _: not backlog.waiting)
            backlog.end(within_seconds=DEADLINE_SECONDS)


def test_lines_come_out_in_order_and_in_full(pipe: Pipe) -> None:
    with backlog_to(pipe, most_lines=1000) as (_, logger):
        for number in range(100):
            logger.warning("line %d", number, extra={"fields": {"host": "a b"}})
        read = pipe.until(lambda read: read.count(b"\n") == 100).decode()
    assert re.findall(r"line (\d+) host=\"a b\"\n", read) == [str(number) for number in range(100)]


def test_a_standard_error_that_takes_nothing_holds_up_nobody_and_the_loss_is_told_when_it_does(pipe: Pipe) -> None:
    pipe.fill()
    with backlog_to(pipe) as (backlog, logger):
        begun = time.monotonic()
        for number in range(1000):
            logger.warning("line-%d", number)
        assert time.monotonic() - begun < 5.0
        pipe.until(lambda _: not backlog.waiting)
        backlog.end(within_seconds=DEADLINE_SECONDS)
        read = pipe.rest().decode()
    written = len(re.findall(r"line-\d+\n", read))
    dropped = sum(int(lines) for lines in re.findall(r"log_lines_dropped lines=(\d+)", read))
    assert written + dropped == 1000
    assert written <= 8 + 2


def test_at_the_end_what_is_left_is_written(pipe: Pipe) -> None:
    with backlog_to(pipe, most_lines=20) as (backlog, logger):
        pipe.fill()
        for number in range(15):
            logger.warning("line-%d", number)
        ending = threading.Thread(target=backlog.end, kwargs={"within_seconds": DEADLINE_SECONDS})
        ending.start()
        read = pipe.until(lambda read: b"line-14\n" in read)
        ending.join(DEADLINE_SECONDS)
        assert not ending.is_alive()
        assert read.count(b"line-") == 15


@pytest.mark.parametrize("lines", [3, 100])
def test_at_the_end_a_standard_error_that_takes_nothing_is_not_waited_for_without_bound(pipe: Pipe, lines: int) -> None:
    pipe.fill()
    with backlog_to(pipe) as (backlog, logger):
        for number in range(lines):
            logger.warning("line-%d", number)
        begun = time.monotonic()
        backlog.end(within_seconds=0.2)
        assert time.monotonic() - begun < 2.0


def test_a_reader_that_has_gone_away_is_no_reason_to_fail_or_to_wait(pipe: Pipe) -> None:
    with backlog_to(pipe) as (backlog, logger):
        os.close(pipe.reader)
        for number in range(100):
            logger.warning("line-%d", number)
        backlog.end(within_seconds=DEADLINE_SECONDS)
        logger.warning("later")
        assert backlog.ended


def test_a_standard_error_that_others_have_made_non_blocking_still_gets_every_line(pipe: Pipe) -> None:
    pipe.fill()
    os.set_blocking(pipe.writer, False)
    with backlog_to(pipe, most_lines=20) as (_, logger):
        for number in range(10):
            logger.warning("line-%d", number)
        read = pipe.until(lambda read: b"line-9\n" in read)
    assert read.count(b"line-") == 10


def test_what_libraries_log_takes_the_same_way_and_afterwards_all_is_as_before() -> None:
    ours, root = logging.getLogger("etcdlock"), logging.getLogger()
    before = (ours.handlers, root.handlers)
    with logging_in_background():
        (handler,) = root.handlers
        assert isinstance(handler, Backlog)
        assert ours.handlers == [handler]
    assert (ours.handlers, root.handlers) == before
    assert handler.ended
