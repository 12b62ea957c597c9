"""The judge: goes by what guests did and what etcd went through, on true time, never by what a program believes.

Every rule returns its violations as sentences, so that a test can see that the judge can see.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, pairwise
from typing import Any

from etcdlock.testing import Applied, Change, LeaseEnded
from tests.promises.world import KEYS, World

FOR_EVER = float("inf")


@dataclass(frozen=True)
class Span:
    """One guest from the opening of its gate to the end of its last process, and the disks it uses in each mode."""

    host: str
    uuid: str
    pid: int
    token: int
    began: float
    ended: float
    exclusive: frozenset[str]
    shared: frozenset[str] = frozenset()

    @property
    def disks(self) -> frozenset[str]:
        return self.exclusive | self.shared

    def during(self, instant: float) -> bool:
        return self.began <= instant < self.ended

    def __str__(self) -> str:
        return f"{self.uuid[-4:]} on {self.host} ({self.began:.3f} to {self.ended:.3f}, token {self.token})"


@dataclass(frozen=True)
class Moment:
    """Everything under etcd's keys right after one revision, as JSON, and when that was."""

    revision: int
    instant: float
    values: dict[str, Any]

    def under(self, folder: str) -> dict[str, Any]:
        return {key: value for key, value in self.values.items() if key.startswith(folder)}


def spans(world: World) -> list[Span]:
    """What every guest of every host did."""
    return [
        Span(
            host=run.host.name,
            uuid=str(run.task.domain.uuid),
            pid=guest.pid,
            token=guest.token or 0,
            began=guest.opened_at,
            ended=FOR_EVER if guest.gone_at is None else guest.gone_at,
            exclusive=frozenset(r.name for r in run.task.resources if r.mode == "exclusive"),
            shared=frozenset(r.name for r in run.task.resources if r.mode == "shared"),
        )
        for run in world.runs
        for guest in run.guests.started
        if guest.opened_at is not None
    ]


def moments(world: World) -> list[Moment]:
    """Every state that etcd went through."""
    return list(_moments(world.etcd.changes(), _instants(world)))


def _instants(world: World) -> dict[int, float]:
    instants: dict[int, float] = {}
    for entry in world.etcd.history:
        if isinstance(entry, Applied) and entry.result is not None:
            instants.setdefault(entry.result.revision, entry.instant)
        elif isinstance(entry, LeaseEnded):
            instants.setdefault(entry.revision, entry.instant)
    return instants


def _moments(changes: Sequence[Change], instants: dict[int, float]) -> Iterator[Moment]:
    values: dict[str, Any] = {}
    for revision, group in groupby(changes, key=lambda change: change.revision):
        for change in group:
            values.pop(change.key, None)
            if change.stored is not None:
                values[change.key] = json.loads(change.stored.value) | {"mod": revision}
        yield Moment(revision, instants[revision], dict(values))


# --- rules --------------------------------------------------------------------------------------------------------


def overlaps(what: Iterable[Span]) -> list[str]:
    """Two guests at one time that must not be."""
    found = []
    for one, other in combinations(what, 2):
        if one.began < other.ended and other.began < one.ended:
            common = one.exclusive & other.disks | one.disks & other.exclusive
            if common or one.uuid == other.uuid:
                found.append(f"{one} and {other} at one time, with {sorted(common)}")
    return found


def shrinking_tokens(what: Iterable[Span]) -> list[str]:
    """An owner whose token is not larger than that of an owner before it."""
    return [
        f"{later} comes after {earlier}"
        for earlier, later in combinations(sorted(what, key=lambda span: span.began), 2)
        if earlier.ended <= later.began and later.token <= earlier.token
        if earlier.uuid == later.uuid or earlier.disks & later.disks
    ]


def uncovered(what: Iterable[Span], history: Sequence[Moment]) -> list[str]:
    """A guest that runs while etcd says that its locks, or their token, are not its own."""
    found = []
    for span in what:
        before = [moment for moment in history if moment.instant <= span.began][-1:]
        for moment in (*before, *(m for m in history if span.began < m.instant < span.ended)):
            record = moment.values.get(f"{KEYS.domains.key}{span.uuid}")
            if not _covers(record, span):
                found.append(f"{span} runs, at {moment.instant:.3f} etcd says {record}")
                break
    return found


def _covers(record: Any, span: Span) -> bool:
    if record is None or (record["host"], record["pid"]) != (span.host, span.pid):
        return False
    listed = {resource["name"] for resource in record["resources"]}
    return listed == span.disks and record.get("token", record["mod"]) == span.token


def outlived_proofs(what: Iterable[Span], history: Sequence[Moment]) -> list[str]:
    """A guest that runs when the proof is written that nothing of its session does."""
    found, known = [], set[str]()
    for moment in history:
        proofs = moment.under(KEYS.obituaries.key)
        for key in proofs.keys() - known:
            dead = proofs[key]["session"]
            for span in what:
                record = moment.values.get(f"{KEYS.domains.key}{span.uuid}")
                mine = record is not None and (record["pid"], record["session"]) == (span.pid, dead)
                if mine and span.during(moment.instant):
                    found.append(f"{span} runs, at {moment.instant:.3f} its session {dead} is proven dead")
        known |= proofs.keys()
    return found


def taken_without_proof(history: Sequence[Moment]) -> list[str]:
    """A lock that went to another's guest without an obituary, and not because a parked domain's session had gone."""
    found = []
    for before, after in pairwise(history):
        for key, old in before.under(KEYS.domains.key).items():
            new = after.values.get(key)
            if new is None or new["mod"] != after.revision or _same_guest(old, new):
                continue
            folder = f"{old['host']}/{old['session']}"
            parked = old["state"] == "parked" and f"{KEYS.sessions().key}{folder}" not in before.values
            if not parked and f"{KEYS.obituaries.key}{folder}" not in before.values:
                found.append(f"revision {after.revision}: {key} taken from {folder} without a proof")
    return found


def _same_guest(old: Any, new: Any) -> bool:
    """The same guest with all its disks, under whatever session."""
    kept = all(resource in new["resources"] for resource in old["resources"])
    return kept and (old["host"], old["boot"], old["pid"]) == (new["host"], new["boot"], new["pid"])


def torn_locks(history: Sequence[Moment]) -> list[str]:
    """A resource's key without a record that lists it, or the other way round; a holder beside an exclusive one."""
    found = []
    for moment in history:
        keys = {_lock(value, value["domain"]["uuid"]) for value in moment.under(KEYS.resources.key).values()}
        records = moment.under(KEYS.domains.key).values()
        listed = {_lock(resource, record["domain"]["uuid"]) for record in records for resource in record["resources"]}
        if keys != listed:
            found.append(f"revision {moment.revision}: keys and records differ by {sorted(keys ^ listed)}")
        found += [
            f"revision {moment.revision}: {one} beside {other}"
            for one, other in combinations(sorted(keys), 2)
            if one[:2] == other[:2] and "exclusive" in (one[2], other[2])
        ]
    return found


def _lock(resource: dict[str, Any], uuid: str) -> tuple[str, str, str, str]:
    return resource["lockspace"], resource["name"], resource["mode"], uuid


def left_behind(world: World) -> list[str]:
    """Keys that a program that has ended must not leave: all but the contract, proofs, and what a proof frees."""
    now = (moments(world) or [Moment(0, 0.0, {})])[-1]
    proven = {value["session"] for value in now.under(KEYS.obituaries.key).values()}
    freed = {
        record["domain"]["uuid"] for record in now.under(KEYS.domains.key).values() if record["session"] in proven
    }
    return [
        key
        for key, value in now.values.items()
        if key != KEYS.contract and not key.startswith(KEYS.obituaries.key)
        if "domain" not in value or value["domain"]["uuid"] not in freed
    ]


def judge(world: World) -> None:
    """All rules but the last, which holds only once every program has ended with etcd at hand."""
    what, history = spans(world), moments(world)
    violations = [
        *overlaps(what),
        *shrinking_tokens(what),
        *uncovered(what, history),
        *outlived_proofs(what, history),
        *taken_without_proof(history),
        *torn_locks(history),
    ]
    assert not violations, "\n".join(violations)
