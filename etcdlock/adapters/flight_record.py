"""What happened on this host, kept on its own disk for `etcdlock why`: one JSON document a line, bounded and rotated.

Guaranteed: whoever notes an event waits for nothing. A thread writes it, and has it on the disk before the next; a disk
that hangs holds up that thread alone, and lines that find the backlog full are counted. What a guard does it writes
itself, into memory that outlives it (`guard.recorder`); the next agent takes that over.

Not guaranteed: the last moments before a power cut, or anything where the folder cannot be written.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from etcdlock.guard.recorder import END, SLOT_BYTES
from etcdlock.journal import JOURNAL, Event, note

Line = dict[str, Any]

MOST_BYTES = 4 * 2**20
"""Of each of two files."""
MOST_WAITING = 4096
END_SECONDS = 2.0
HEARTBEAT, KNOWN = "heartbeat", "guest_known"
HEARTBEAT_EVERY_SECONDS = 300.0
"""One of them is kept in so long, besides the last one before anything is amiss."""
FIRST_ONLY = frozenset(("heartbeat_failed", "join_failed"))
"""Once an outage, when they are warnings, and not once a try."""
RING_PREFIX = "flight-"


@dataclass(frozen=True, slots=True)
class Places:
    """Where a host keeps its record: `folder` for good, `rings` for what guards write until the next boot, if that is
    to be told, too. `kind` names the record, of which there may be several.
    """

    folder: str
    rings: str
    host: str
    kind: str = "record"

    @property
    def file(self) -> Path:
        """The current one."""
        return Path(self.folder, f"{self.kind}-{quote(self.host, safe='')}.jsonl")

    @property
    def earlier(self) -> Path:
        """The one before."""
        return self.file.with_suffix(".jsonl.1")

    def new_ring(self) -> str:
        """A path for a guard's own; empty where that would be a disk's, for which a guard must not wait."""
        if not _is_memory(self.rings):
            return ""
        return str(Path(self.rings, f"{RING_PREFIX}{os.getpid()}-{time.monotonic_ns()}"))


@contextmanager
def keeping(places: Places, /, *, only: frozenset[str] | None = None) -> Iterator[None]:
    """Inside, everything that is noted is written down, behind what earlier guards have left; or `only` these events.
    """
    try:
        Path(places.folder).mkdir(mode=0o750, parents=True, exist_ok=True)
        descriptor = _opened(places.file)
    except OSError as error:
        note("record_not_kept", level=logging.WARNING, folder=places.folder, error=error)
        yield
        return
    writer = _Writer(places, descriptor, only=only)
    for line in take_rings(places):
        writer.put(line)
    try:
        with JOURNAL.listening(writer.listen):
            yield
    finally:
        for line in take_rings(places):
            writer.put(line)
        writer.end()


def read_record(places: Places, /) -> list[Line]:
    """All that is there, the oldest first. Raises OSError where it may not be read."""
    lines: list[Line] = []
    for file in (places.earlier, places.file):
        with suppress(FileNotFoundError):
            lines += _parsed(file.read_bytes())
    for ring in _rings(places):
        lines += _read_ring(ring)
    return sorted(lines, key=lambda line: str(line["at"]))


def read_or_say_why(places: Places, /) -> tuple[list[Line], str | None]:
    """The same, with the reason where it may not be read."""
    try:
        return read_record(places), None
    except OSError as error:
        return [], f"{error.filename}: {error.strerror}"


def take_rings(places: Places, /) -> list[Line]:
    """What guards have written that live no more; it is deleted."""
    lines: list[Line] = []
    for ring in _rings(places):
        with suppress(OSError), ring.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while its guard lives
            lines += _read_ring(ring)
            ring.unlink()
    return lines


class _Writer:
    """The thread, and what waits for it."""

    def __init__(self, places: Places, descriptor: int, /, *, only: frozenset[str] | None) -> None:
        self._places = places
        self._only = only
        self._descriptor = descriptor
        self._waiting: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING)
        self._dropped = 0
        self._heartbeat: Event | None = None
        self._heartbeat_kept = 0.0
        self._thread = threading.Thread(target=self._write_all, name="record", daemon=True)
        self._thread.start()

    def listen(self, event: Event, /) -> None:
        """A heartbeat is kept in mind, and written ahead of what it was the last before."""
        if self._only is not None and event.name not in self._only:
            return
        if event.name == HEARTBEAT:
            self._heartbeat = event
            if self._heartbeat_kept and time.monotonic() < self._heartbeat_kept + HEARTBEAT_EVERY_SECONDS:
                return
        elif event.level < (logging.WARNING if event.name in FIRST_ONLY else logging.INFO) and event.name != KNOWN:
            return
        if event.level >= logging.WARNING or event.name == HEARTBEAT:
            self._put_heartbeat()
        if event.name != HEARTBEAT:
            self.put(_line(event))

    def put(self, line: Line, /) -> None:
        """Have it written."""
        try:
            self._waiting.put_nowait(_encoded(line))
        except queue.Full:
            self._dropped += 1

    def end(self) -> None:
        """Write what is left, for a bounded time."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=END_SECONDS)
            self._thread.join(END_SECONDS)

    def _put_heartbeat(self) -> None:
        event, self._heartbeat = self._heartbeat, None
        if event is not None:
            self._heartbeat_kept = time.monotonic()
            self.put(_line(event))

    def _write_all(self) -> None:
        """In the thread."""
        try:
            while (line := self._waiting.get()) is not None:
                self._write(line)
                if self._dropped:
                    fields, self._dropped = {"lines": self._dropped}, 0
                    said = {"at": _now(), "event": "record_lines_dropped", "level": "warning", "fields": fields}
                    self._write(_encoded(said))  # not behind what waits, which may be full again
        except OSError as error:
            note("record_not_kept", level=logging.WARNING, folder=self._places.folder, error=error)

    def _write(self, line: bytes, /) -> None:
        """To the disk before the next one."""
        if os.fstat(self._descriptor).st_size + len(line) > MOST_BYTES:
            self._places.file.replace(self._places.earlier)
            os.close(self._descriptor)
            self._descriptor = _opened(self._places.file)
        os.write(self._descriptor, line)
        os.fdatasync(self._descriptor)


def _opened(file: Path, /) -> int:
    return os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _line(event: Event, /) -> Line:
    at = event.at.isoformat(timespec="milliseconds")
    return {"at": at, "event": event.name, "level": event.level_name, "fields": dict(event.fields)}


def _encoded(line: Line, /) -> bytes:
    return json.dumps(line, default=str).encode() + b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _parsed(content: bytes, /) -> list[Line]:
    """What was cut off by a power failure is left out."""
    lines = []
    for text in content.splitlines():
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("fields"), dict) and {"at", "event"} <= line.keys():
                lines.append(line)
    return lines


# --- what guards write ----------------------------------------------------------------------------------------------


def _rings(places: Places, /) -> list[Path]:
    if not places.rings:
        return []
    try:
        return sorted(Path(places.rings).glob(f"{RING_PREFIX}*"))
    except OSError:
        return []


def _read_ring(ring: Path, /) -> list[Line]:
    try:
        content = ring.read_bytes()
    except OSError:
        return []
    slots = (content[start : start + SLOT_BYTES] for start in range(0, len(content), SLOT_BYTES))
    return [line for slot in slots if slot.endswith(END) and (line := _slot(slot.decode(errors="replace")))]


def _slot(text: str, /) -> Line | None:
    words = text.split()
    if len(words) < 6:
        return None
    _, at, event, guest, since, session, *_ = words
    pid, _, start = guest.partition(":")
    fields = {"pid": int(pid), "pid_start": int(start), "session": session, "proven_seconds_ago": float(since)}
    when = datetime.fromtimestamp(float(at), UTC).isoformat(timespec="milliseconds")
    return {"at": when, "event": event, "level": "error", "fields": fields}


def _is_memory(folder: str, /) -> bool:
    """Whether it lies on tmpfs, where nothing is ever waited for."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    real, point, kind = os.path.realpath(folder), "", ""
    for mount in mounts:
        fields, _, rest = mount.partition(" - ")
        here = fields.split(" ")[4].replace("\\040", " ")
        if os.path.commonpath((here, real)) == here and len(here) >= len(point):
            point, kind = here, rest.split(" ")[0]
    return kind in ("tmpfs", "ramfs")
