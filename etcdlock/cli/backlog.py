"""Writes the log from a thread, so that a standard error which takes nothing holds up that thread and nobody else.

Guaranteed: logging waits for nothing. Lines that find the backlog full are counted, and the count is noted when there
is room again. At the end what is left is written, for a bounded time.

Not guaranteed: that a line was written before what it tells of had further effects, nor the lines of gRPC's C core,
which writes them itself.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from etcdlock.journal import JOURNAL, FieldFormatter

MOST_LINES = 4096
FLUSH_SECONDS = 2.0
DROPPED = "log_lines_dropped"


class Backlog(logging.Handler):
    """Lines on their way to a file descriptor; it stays the caller's to close."""

    def __init__(self, descriptor: int, /, *, most_lines: int = MOST_LINES) -> None:
        super().__init__()
        self.setFormatter(FieldFormatter())
        self._descriptor = descriptor
        self._lines: queue.Queue[bytes | None] = queue.Queue(most_lines)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether nothing is written any more: it was told to end, or nobody can read it."""
        return not self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """How many lines nobody has begun to write."""
        return self._lines.qsize()

    def emit(self, record: logging.LogRecord) -> None:
        """Called under the handler's own lock. Rendered here, since what the record tells of may change."""
        try:
            self._lines.put_nowait(self._line(record))
        except queue.Full:
            self._dropped += 1

    def end(self, *, within_seconds: float) -> None:
        """Write what is left, in that time at most; what comes afterwards goes nowhere."""
        until = time.monotonic() + within_seconds
        if self.ended:
            return
        try:
            self._lines.put(None, timeout=within_seconds)
        except queue.Full:
            return
        self._thread.join(max(until - time.monotonic(), 0.0))

    def _write_all(self) -> None:
        """In the thread, until the end or until nobody can read it any more."""
        try:
            while (line := self._lines.get()) is not None:
                self._write(line)
                self._own_up()
        except OSError:  # the reader is gone; logging has nowhere to say so
            return

    def _own_up(self) -> None:
        """Not through the backlog, which may be full again."""
        self.acquire()
        fields, self._dropped = {"lines": self._dropped}, 0
        self.release()
        if fields["lines"]:
            JOURNAL.add(DROPPED, level=logging.WARNING, fields=fields)
            self._write(self._line(logging.makeLogRecord({"levelname": "WARNING", "msg": DROPPED, "fields": fields})))

    def _line(self, record: logging.LogRecord, /) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _write(self, line: bytes, /) -> None:
        """Not through `sys.stderr`: a thread that waits inside its lock would keep the interpreter from ending."""
        while line:
            try:
                line = line[os.write(self._descriptor, line) :]
            except BlockingIOError:  # somebody who has it, too, has made it so
                select.select((), (self._descriptor,), ())


@contextmanager
def logging_in_background() -> Iterator[None]:
    """Inside, all logging of this process goes through a backlog; also that of libraries, which is kept to warnings."""
    if sys.stderr is None:  # closed by whoever started us: its number may be another file's by now
        yield
        return
    loggers = (logging.getLogger(), logging.getLogger("etcdlock"))
    before = [list(logger.handlers) for logger in loggers]
    backlog = Backlog(sys.stderr.fileno())
    for logger in loggers:
        logger.handlers = [backlog]
    try:
        yield
    finally:
        for logger, handlers in zip(loggers, before, strict=True):
            logger.handlers = handlers
        backlog.end(within_seconds=FLUSH_SECONDS)
