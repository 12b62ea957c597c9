"""The shared disks of a lab's guests, and what their records say.

Each is a file on a file system that all hosts mount, under one path: what keeps two guests from writing it is etcdlock
alone. All instants in the records are of one kernel's CLOCK_BOOTTIME; where a host's clock was set ahead, that is taken
away again, so those of different hosts may be compared. The judge is `etcdlock.demo.checker`, which knows nothing of
what locks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID, uuid4

from etcdlock.demo import checker
from etcdlock.model import DomainId, Mode, Resource
from tests.cluster.guest import BLOCK_BYTES
from tests.cluster.volume import MOUNTED_AT


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk of one domain: `path` on the hosts, `file` as we reach it."""

    domain: DomainId
    path: str
    file: Path

    @classmethod
    def new(cls, name: str, /, *, seen_at: Path) -> Disk:
        """Nobody has written to it."""
        uuid: UUID = uuid4()
        file = f"{name}-{uuid.hex[:8]}"
        disk = cls(DomainId(uuid, name), f"{MOUNTED_AT}/{file}", seen_at / file)
        disk.file.touch()
        return disk

    @property
    def resource(self) -> Resource:
        """As it is locked."""
        return Resource("path", self.path, Mode.EXCLUSIVE, self.path)

    def judge(self, clocks: Mapping[str, float], /) -> checker.Report:
        """Judge it. `clocks` says by how much each host's clock is ahead of ours."""
        return checker.judge(list(read(self.file.read_bytes(), clocks)))

    def last_written_at(self, clocks: Mapping[str, float], /, *, token: int = 0) -> float:
        """When the last write began, or the last one with this token; 0 if there is none."""
        records = [each for each in read(self.file.read_bytes(), clocks) if each is not None]
        return max((each.before_at for each in records if token in (0, each.token)), default=0.0)


def read(content: bytes, clocks: Mapping[str, float], /) -> Iterator[checker.Record | None]:
    """The records on a disk, by our clock."""
    for at in range(0, len(content), BLOCK_BYTES):
        block = content[at : at + BLOCK_BYTES]
        record = checker.parse(block[: checker.RECORD_BYTES]) if len(block) == BLOCK_BYTES else None
        yield record and _by_our_clock(record, clocks)


def _by_our_clock(record: checker.Record, clocks: Mapping[str, float]) -> checker.Record:
    ahead = clocks.get(record.host, 0.0)
    return replace(
        record, before_at=record.before_at - ahead, done_at=record.done_at - ahead if record.done_at else 0.0
    )
