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
from tests.promises.span import FOR_EVER, Span, called
from tests.promises.world import KEYS, World


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
        *(span for hypervisor in world.hypervisors for span in hypervisor.spans()),
        *_spans_of_runs(world),
    ]


def _spans_of_runs(world: World) -> list[Span]:
    return [
        Span(
            host=run.host.name,
            uuid=str(run.task.domain.uuid),
            pid=guest.pid,
            token=guest.token or 0,
            began=began,
            ended=FOR_EVER if ended is None else ended,
            exclusive=frozenset(called(r) for r in run.task.resources if r.mode == "exclusive"),
            shared=frozenset(called(r) for r in run.task.resources if r.mode == "shared"),
        )
        for run in world.runs
        for guest in run.guests.started
        for began, ended in guest.ran
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
    """An owner whose token is not larger than that of an owner before it, or one whose own token has shrunk."""
    return [
        f"{later} comes after {earlier}"
        for earlier, later in combinations(sorted(what, key=lambda span: span.began), 2)
        if earlier.ended <= later.began and _shrinks(earlier, later)
    ]


def _shrinks(earlier: Span, later: Span) -> bool:
    if later.is_of(earlier):
        return later.token < earlier.token
    common = earlier.exclusive & later.disks | earlier.disks & later.exclusive
    by_domain = earlier.uuid == later.uuid and later.token <= earlier.token
    return by_domain or any(later.token_of(disk) <= earlier.token_of(disk) for disk in common)


def stale_memory(what: Iterable[Span]) -> list[str]:
    """A guest that runs on with what its domain had in memory before it ran again elsewhere, or again at its source."""
    return [f"{span} runs with memory that is out of date" for span in what if span.stale]


def uncovered(what: Iterable[Span], history: Sequence[Moment]) -> list[str]:
    """A guest that runs while etcd says that its locks, or their token, are not its own; or that it is parked, if
    whoever runs it had asked for it."""
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
    listed = {f"{resource['lockspace']}:{resource['name']}" for resource in record["resources"]}
    states = ("held", "parked") if span.unasked else ("held",)
    held = record["state"] in states and record.get("token", record["mod"]) == span.token
    return held and listed >= span.disks  # a disk just unplugged may be listed still


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
    """A lock that went to another's guest without an obituary, a claim or its undoing; that it was parked is no proof.

    A claim takes all of a parked domain for the same domain. It is undone by giving it back to the guest it came from.
    """
    found, claimed_from = [], dict[str, Any]()
    for before, after in pairwise(history):
        for key, old in before.under(KEYS.domains.key).items():
            new = after.values.get(key)
            if new is None or new["mod"] != after.revision or _is_unharmed(old, new, after):
                continue
            if old["state"] == "parked" and new["state"] == "held" and _all_kept(old, new):
                claimed_from[key] = old
            elif not (_is_handed_back(claimed_from.get(key), new) or _is_proven(before, old)):
                found.append(f"revision {after.revision}: {key} taken from {_folder(old)} without a proof")
    return found


def _is_unharmed(old: Any, new: Any, after: Moment) -> bool:
    """The same guest, under whatever session; what it has less is nobody's now."""
    lost = {(r["lockspace"], r["name"]) for r in old["resources"] if r not in new["resources"]}
    others = (other for other in after.under(KEYS.domains.key).values() if other["mod"] == after.revision)
    taken = {(r["lockspace"], r["name"]) for other in others for r in other["resources"]}
    return _guest(old) == _guest(new) and not lost & taken


def _guest(record: Any) -> tuple[Any, ...]:
    return record["host"], record["boot"], record["pid"]


def _all_kept(old: Any, new: Any) -> bool:
    return all(resource in new["resources"] for resource in old["resources"])


def _is_handed_back(source: Any, new: Any) -> bool:
    return source is not None and new["state"] == "parked" and _guest(source) == _guest(new)


def _folder(record: Any) -> str:
    return f"{record['host']}/{record['session']}"


def _is_proven(before: Moment, old: Any) -> bool:
    return f"{KEYS.obituaries.key}{_folder(old)}" in before.values


def undone_too_late(what: Sequence[Span], history: Sequence[Moment]) -> list[str]:
    """A domain that goes back, parked, to whom it came from, though the guest that had claimed it has run."""
    found = []
    for before, after in pairwise(history):
        for key, old in before.under(KEYS.domains.key).items():
            new = after.values.get(key)
            if new is None or new["state"] != "parked" or _guest(old) == _guest(new):
                continue
            for span in what:
                ran = span.began <= after.instant and (span.host, span.pid) == (old["host"], old["pid"])
                if ran and key.endswith(span.uuid):
                    found.append(f"revision {after.revision}: {key} goes back to {_folder(new)}, but {span} has run")
    return found


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


def violations(what: Sequence[Span], history: Sequence[Moment]) -> list[str]:
    """All rules but the last, which holds only once every program has ended with etcd at hand."""
    return [
        *overlaps(what),
        *shrinking_tokens(what),
        *stale_memory(what),
        *uncovered(what, history),
        *outlived_proofs(what, history),
        *taken_without_proof(history),
        *undone_too_late(what, history),
        *torn_locks(history),
    ]


def judge(world: World) -> None:
    """Fails with every violation that there is."""
    found = violations(spans(world), moments(world))
    assert not found, "\n".join(found)
