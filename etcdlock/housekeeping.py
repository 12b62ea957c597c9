"""What may be removed from etcd since no session that lives can own or need it, and how; pure.

Each removal is one transaction that compares everything it rests on, so that it never races with a takeover:

- a lock of a dead session: the domain is unchanged, its session has an obituary and no key, and each of its resources'
  keys is its own still. That is what a takeover compares, too: of the two exactly one commits.
- an obituary: it is unchanged, its session has no key, and no domain has been written since the look at all of them
  that found none to name that session.
- a record of fencing: it is unchanged, nothing is under way by it, and no domain has been written since that look.

Age, by the wall clocks of those who wrote it, only keeps what people may want to read; no safety rests on it. What is
left alone is whatever a guest might still run by: a silent session's lock, a resource's key without its domain, and
what cannot be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from etcdlock.identity import escaped
from etcdlock.keyspace import Keyspace
from etcdlock.model import DomainRecord, FencingState, Obituary, StoredFencing
from etcdlock.ports import Compare, Delete, KeyRange, Txn
from etcdlock.survey import Leftover, LeftoverKind, LockView, Standing, Survey
from etcdlock.transitions import absent, nothing_newer, present, unchanged


class Kind(StrEnum):
    """What is removed."""

    DEAD_LOCK = "lock of a dead session"
    OBITUARY = "obituary nobody needs"
    FENCING = "old record of fencing"


@dataclass(frozen=True, slots=True)
class Removal:
    """One thing, in words for people, and the transaction that removes it."""

    kind: Kind
    key: str
    text: str
    txn: Txn


@dataclass(frozen=True, slots=True)
class Plan:
    """What may be removed, in the order in which it should be, and what is left alone and why."""

    removals: tuple[Removal, ...]
    left: tuple[Leftover, ...]


def plan(survey: Survey, /, *, keys: Keyspace, now: datetime, older_than: timedelta) -> Plan:
    """Locks first: an obituary that such a lock needs can go only afterwards, with the next plan."""
    removals = [
        _lock(survey, lock, lock.obituary, keys)
        for lock in survey.locks
        if lock.obituary is not None and _is_old(lock.obituary.when, now, older_than)
    ]
    if not any(item.key.startswith(keys.domains.key) for item in survey.leftovers):  # else it might be needed there
        named = {lock.stored.record.owner for lock in survey.locks}
        alive = {view.ref for view in survey.sessions if view.standing is Standing.ALIVE}
        for item, revision in survey.obituary_revisions:
            if item.dead not in named | alive and _is_old(item.when, now, older_than):
                removals.append(_obituary(survey, item, revision, keys))
        for fencing in survey.fencings:
            dead = {ref.session for ref in named if ref.host == fencing.record.host}
            if not dead & set(fencing.record.sessions) and _is_over(fencing, now, older_than):
                removals.append(_fencing(survey, fencing, keys))
    return Plan(tuple(removals), (*_silent(survey, keys), *_untouched(survey)))


def _is_old(when: str, now: datetime, older_than: timedelta) -> bool:
    """Of what cannot be told how old it is, no."""
    try:
        return now - datetime.fromisoformat(when) >= older_than
    except (ValueError, TypeError):
        return False


def _is_over(fencing: StoredFencing, now: datetime, older_than: timedelta) -> bool:
    return fencing.record.state is not FencingState.UNDER_WAY and _is_old(fencing.record.when, now, older_than)


def _lock(survey: Survey, lock: LockView, proof: Obituary, keys: Keyspace) -> Removal:
    record = lock.stored.record
    key, uuid = keys.domain(record.domain.uuid), record.domain.uuid
    listed = {keys.resource(resource, uuid=uuid) for resource in record.resources}
    own = [
        (keys.resource(item.record.resource, uuid=uuid), item.mod_revision)
        for item in survey.resources
        if item.record.domain.uuid == uuid
    ]
    held = [(where, revision) for where, revision in own if where in listed]
    compare: tuple[Compare, ...] = (
        unchanged(key, lock.stored.mod_revision),
        present(keys.obituary(record.owner)),
        absent(KeyRange(keys.session(record.owner))),
        *(unchanged(where, revision) for where, revision in held),
    )
    deletes = (Delete(KeyRange(key)), *(Delete(KeyRange(where)) for where, _ in held))
    disks = f" with {', '.join(str(item) for item in record.resources)}" if record.resources else ""
    said = f"domain {record.domain}{disks}, {record.state}: session {record.owner} is proven dead since {proof.when}"
    return Removal(Kind.DEAD_LOCK, key, f"{escaped(said)} ({proof.proof})", Txn(compare, deletes))


def _obituary(survey: Survey, item: Obituary, revision: int, keys: Keyspace) -> Removal:
    key = keys.obituary(item.dead)
    compare = (
        unchanged(key, revision),
        absent(KeyRange(keys.session(item.dead))),
        nothing_newer(keys.domains, survey.revision),
    )
    said = f"session {item.dead}, dead since {item.when} ({item.proof}, by {item.by}): no lock names it"
    return Removal(Kind.OBITUARY, key, escaped(said), Txn(compare, (Delete(KeyRange(key)),)))


def _fencing(survey: Survey, item: StoredFencing, keys: Keyspace) -> Removal:
    key, record = keys.fencing(item.record.host), item.record
    compare = (unchanged(key, item.mod_revision), nothing_newer(keys.domains, survey.revision))
    said = f"host {record.host}, {record.state} at {record.when}, by {record.by}"
    return Removal(Kind.FENCING, key, escaped(said), Txn(compare, (Delete(KeyRange(key)),)))


def _silent(survey: Survey, keys: Keyspace) -> tuple[Leftover, ...]:
    """Whose guests may run: the proof of their end comes first."""
    found = [lock.stored.record for lock in survey.locks if lock.standing is Standing.SILENT]
    return tuple(
        Leftover(LeftoverKind.SILENT_LOCK, keys.domain(record.domain.uuid), escaped(_why_left(record)))
        for record in found
    )


def _why_left(record: DomainRecord) -> str:
    remedy = f"if its host is off, 'etcdlock break {record.owner}'"
    return f"domain {record.domain}: session {record.owner} has no key and no proof of its end; {remedy}"


def _untouched(survey: Survey) -> tuple[Leftover, ...]:
    return tuple(item for item in survey.leftovers if item.kind is not LeftoverKind.IDLE_OBITUARY)
