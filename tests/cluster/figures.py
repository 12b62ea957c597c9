"""What a run came to: counted from blows, guests' ends, etcd's records as they were seen, and the disks."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from etcdlock.model import DomainRecord
from tests.cluster.cluster import CLOCKS, Scene
from tests.cluster.director import Blow
from tests.cluster.guests import Guest
from tests.cluster.witness import Change

_UNKNOWN: Final = "…"


@dataclass(slots=True)
class Figures:
    """Of one scene or several. Times in seconds."""

    promised_takeover_seconds: float
    faults: Counter[str] = field(default_factory=Counter)
    records: int = 0
    acquisitions: int = 0
    migrations: int = 0
    takeovers: int = 0
    wrong: list[str] = field(default_factory=list)
    """Everything that must never be: overlaps, lower tokens, lost records, lost locks, needless stops."""
    overlaps: int = 0
    lost_locks: int = 0
    stopped: int = 0
    stopped_needlessly: int = 0
    margins: list[float] = field(default_factory=list)
    """From the end of a guest that was stopped to the proof by which its locks could be taken."""
    proof_seconds: list[float] = field(default_factory=list)
    """From the fault to the proof by which its host's locks may be taken."""
    takeover_seconds: list[float] = field(default_factory=list)
    """From the fault to the next owner, who asks twice a second."""

    def add(self, scene: Scene, blows: Sequence[Blow], /) -> None:
        """Count a scene whose guests have ended."""
        self.faults.update(blow.fault.name for blow in blows)
        for keeper in scene.keepers:
            report = keeper.disk.judge(CLOCKS)
            self.records += len(report.records)
            self.migrations += keeper.migrations
            self.overlaps += len(report.faults)
            self.wrong.extend(f"{keeper.disk.domain.name}: {fault}" for fault in report.faults)
        guests = [guest for keeper in scene.keepers for guest in keeper.guests]
        self.acquisitions += len(scene.witness.changes)
        self._count_lost_locks(scene)
        self._count_stops(scene, guests, blows)
        self._measure(scene, guests, blows)

    def lines(self) -> Iterator[tuple[str, str]]:
        """What was measured, for people."""
        yield "faults put in", f"{self.faults.total():,}"
        yield "changes of owner", f"{self.acquisitions:,}"
        yield "… of which live migrations", f"{self.migrations:,}"
        yield "… of which takeovers by a proof", f"{self.takeovers:,}"
        yield "records on the disks", f"{self.records:,}"
        yield "overlaps, lower tokens, records lost (must be 0)", f"{self.overlaps:,}"
        yield "locks lost by a guest that ran (must be 0)", f"{self.lost_locks:,}"
        yield "guests stopped in outages longer than promised", f"{self.stopped - self.stopped_needlessly:,}"
        yield "guests stopped without need (must be 0)", f"{self.stopped_needlessly:,}"
        yield "from a guest's stop to the proof by which its locks were taken, least", _seconds(_least(self.margins))
        yield "… median", _seconds(_median(self.margins))
        yield "from the fault to the proof, promised", _seconds(self.promised_takeover_seconds)
        yield "… median", _seconds(_median(self.proof_seconds))
        yield "… longest", _seconds(max(self.proof_seconds, default=None))
        yield "from the fault to the next owner, who asks twice a second", _seconds(_median(self.takeover_seconds))
        yield "… longest", _seconds(max(self.takeover_seconds, default=None))

    # --- parts -----------------------------------------------------------------------------------------------------

    def _count_lost_locks(self, scene: Scene) -> None:
        """A lock that was given back, or taken with a proof, and whose guest has written after that was seen."""
        gone = [*scene.witness.freed]
        gone += [(change.at, change.before) for change in scene.witness.takeovers() if change.before]
        disks = {keeper.disk.domain.uuid: keeper.disk for keeper in scene.keepers}
        for at, before in gone:
            record = before.record
            later = disks[record.domain.uuid].last_written_at(CLOCKS, token=before.token) - at
            if later > 0:
                self.lost_locks += 1
                self.wrong.append(f"{record.domain}: wrote {later:.3f} s after its lock on {record.owner} was gone")

    def _count_stops(self, scene: Scene, guests: Sequence[Guest], blows: Sequence[Blow]) -> None:
        grace = scene.timing.budget_seconds
        for guest in guests:
            if guest.ended_by or guest.ended_at is None:
                continue
            self.stopped += 1
            at = guest.ended_at
            during = [blow for blow in blows if blow.begun_at <= at <= blow.ended_at + grace]
            if all(blow.spares for blow in during):
                self.stopped_needlessly += 1
                names = ", ".join(map(str, during)) or "no fault"
                self.wrong.append(f"{guest.disk.domain.name} on {guest.host.name} was stopped without need: {names}")

    def _measure(self, scene: Scene, guests: Sequence[Guest], blows: Sequence[Blow]) -> None:
        for change in scene.witness.takeovers():
            self.takeovers += 1
            before = change.before.record if change.before else change.record
            guest, (proven_at, _) = _named_by(before, guests), scene.witness.obituaries[before.owner]
            if guest is not None and guest.ended_at is not None and not guest.ended_by:
                self.margins.append(proven_at - guest.ended_at)
            for begun_at in _beginning(change, before, blows):
                self.proof_seconds.append(proven_at - begun_at)
                self.takeover_seconds.append(change.at - begun_at)


def _beginning(change: Change, before: DomainRecord, blows: Iterable[Blow]) -> list[float]:
    """Of the fault that it was for; nothing where a second fault or an etcd that was ill was in it."""
    found = [blow for blow in blows if blow.begun_at <= change.at <= blow.ended_at + 1.0]
    if [(blow.fault.takes_over, blow.host) for blow in found] == [(True, before.owner.host)]:
        return [found[0].begun_at]
    return []


def _named_by(record: DomainRecord, guests: Sequence[Guest]) -> Guest | None:
    """Pids begin anew with each boot of a host."""
    named = (record.domain, record.owner.host, record.machine.boot, record.pid)
    of = (guest for guest in guests if (guest.disk.domain, guest.host.name, guest.boot, guest.pid) == named)
    return next(of, None)


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _least(values: Sequence[float]) -> float | None:
    return min(values, default=None)


def _seconds(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.1f} s"
