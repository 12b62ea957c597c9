"""Judges a disk that guests of the demo wrote: whether no two owners overlapped and tokens only grew.

It knows the records' format from its description in `guest`, and shares no code with the writer, with what locks, or
with what tells the story: its only input is the bytes on the disk. All instants in them are of one kernel's
CLOCK_BOOTTIME, so those of different writers may be compared.

Found: an empty disk, a torn or garbled record, a token smaller than one before it, one token used by two hosts, a
record lost or written twice, owners whose times overlap. Not found: a write that began in time and was on the disk too
late, if nobody else had written before it was.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

RECORD_BYTES: Final = 160
_RECORD: Final = re.compile(
    rb"(token=(\d+) host=(\S+) sequence=(\d+) before=(\d+) done=(\d+) *) ([0-9a-f]{8})\n", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Record:
    """One record; instants in seconds of CLOCK_BOOTTIME. `done_at` is the end of the write before it, or 0."""

    token: int
    host: str
    sequence: int
    before_at: float
    done_at: float

    @property
    def who(self) -> str:
        """Its owner, for people."""
        return f"{self.host} (token {self.token})"


@dataclass(frozen=True, slots=True)
class Tenure:
    """All that was written with one token."""

    token: int
    host: str
    records: int
    first_at: float
    last_at: float

    @property
    def who(self) -> str:
        """The owner, for people."""
        return f"{self.host} (token {self.token})"


@dataclass(frozen=True, slots=True)
class Report:
    """What is on the disk, owners in the order of their first record, and everything that is wrong with it."""

    records: tuple[Record, ...]
    tenures: tuple[Tenure, ...]
    faults: tuple[str, ...]


def check(content: bytes, /) -> Report:
    """Judge a disk."""
    return judge([parse(content[at : at + RECORD_BYTES]) for at in range(0, len(content), RECORD_BYTES)])


def judge(parsed: Sequence[Record | None], /) -> Report:
    """Judge what was read of a disk, in its order; None stands for what could not be read."""
    records = tuple(record for record in parsed if record is not None)
    tenures = _tenures(records)
    faults = (
        *(() if parsed else ("the disk is empty: nobody ever wrote to it",)),
        *(f"record {number} is torn or garbled" for number, record in enumerate(parsed) if record is None),
        *_shrinking_tokens(records),
        *_broken_sequences(records),
        *_overlaps(tenures),
    )
    return Report(records, tenures, faults)


def longest_pause_seconds(records: Sequence[Record], /) -> float:
    """The longest time between the beginnings of two writes."""
    return max((later.before_at - earlier.before_at for earlier, later in pairwise(records)), default=0.0)


def parse(slot: bytes, /) -> Record | None:
    """One record; None if it is torn or garbled."""
    match = _RECORD.fullmatch(slot) if len(slot) == RECORD_BYTES else None
    if match is None or zlib.crc32(match[1]) != int(match[7], 16):
        return None
    token, host, sequence, before, done = match.groups()[1:6]
    return Record(int(token), host.decode("ascii", "replace"), int(sequence), int(before) / 1e9, int(done) / 1e9)


def _tenures(records: Sequence[Record], /) -> tuple[Tenure, ...]:
    by_owner: dict[tuple[int, str], list[Record]] = {}
    for record in records:
        by_owner.setdefault((record.token, record.host), []).append(record)
    found = [
        Tenure(
            token,
            host,
            len(written),
            first_at=min(record.before_at for record in written),
            last_at=max(max(record.before_at, record.done_at) for record in written),
        )
        for (token, host), written in by_owner.items()
    ]
    return tuple(sorted(found, key=lambda tenure: tenure.first_at))


def _shrinking_tokens(records: Sequence[Record], /) -> Iterator[str]:
    for number, (earlier, later) in enumerate(pairwise(records), start=1):
        if later.token < earlier.token:
            yield f"record {number}: the token shrank, {later.who} wrote after {earlier.who}"


def _broken_sequences(records: Sequence[Record], /) -> Iterator[str]:
    due: dict[tuple[int, str], int] = {}
    for record in records:
        owner = (record.token, record.host)
        if record.sequence != due.get(owner, 0):
            yield f"{record.who}: record {record.sequence} stands where {due.get(owner, 0)} should"
        due[owner] = record.sequence + 1


def _overlaps(tenures: Sequence[Tenure], /) -> Iterator[str]:
    for number, later in enumerate(tenures):
        for earlier in tenures[:number]:
            if earlier.token == later.token:
                yield f"token {later.token} was used by {earlier.host} and by {later.host}"
            if later.first_at <= earlier.last_at:
                milliseconds = (earlier.last_at - later.first_at) * 1000
                yield f"{later.who} wrote {milliseconds:.0f} ms before {earlier.who} had ended"
