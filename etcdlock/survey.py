"""What one snapshot of a cluster's keys says, for whoever looks: sessions, locks, proofs and leftovers; pure.

Guaranteed: every key under the cluster's root is accounted for. A record that cannot be read is a leftover with its
reason and hides nothing else. What is stale (its session has no key) is marked so, with the proof if there is one.

Not guaranteed: that it is still so. Nothing here may be taken for a reason to change a lock; transactions look again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID

from etcdlock.errors import CorruptRecord, InvalidInput, NewerFormat
from etcdlock.identity import escaped
from etcdlock.keyspace import Keyspace
from etcdlock.model import (
    Blocker,
    Obituary,
    Resource,
    SessionRecord,
    SessionRef,
    StoredDomain,
    StoredFencing,
    StoredResource,
)
from etcdlock.ports import KeyValue, Snapshot
from etcdlock.records import (
    decode_contract,
    decode_domain,
    decode_fencing,
    decode_obituary,
    decode_resource,
    decode_session,
)

R = TypeVar("R")


class Standing(StrEnum):
    """What a snapshot says of a session."""

    ALIVE = "alive"
    """Its key stands."""
    SILENT = "silent"
    """No key, no proof: crashed, cut off, or about to be proven dead."""
    DEAD = "dead"
    """No key, and an obituary."""


class Takeover(StrEnum):
    """Whether a lock may change hands without its owner."""

    NO = "no"
    """Its owner lives."""
    NOW = "now"
    """Its owner is proven dead."""
    AFTER_SILENCE = "after silence"
    """Once its owner's session has been seen missing for the hold-off, or somebody confirms that it is off."""
    AFTER_CONFIRMATION = "after confirmation"
    """Once somebody confirms that its owner is off: this cluster does not take silence for a proof."""


class LeftoverKind(StrEnum):
    """What is wrong with, or no longer needed of, a key."""

    CORRUPT = "corrupt record"
    NEWER = "newer record"
    MISPLACED = "misplaced record"
    UNKNOWN = "unknown key"
    STRAY_RESOURCE = "resource its domain does not list"
    MISSING_RESOURCE = "listed resource without its lock"
    LIVING_DEAD = "obituary of a living session"
    IDLE_OBITUARY = "obituary nobody needs"
    SILENT_LOCK = "lock of a silent session"

    @property
    def harmless(self) -> bool:
        """Whether it does no more than take up room."""
        return self is LeftoverKind.IDLE_OBITUARY

    @property
    def unreadable(self) -> bool:
        """Whether the key holds something whose meaning is not known, so that it may not be taken for free."""
        return self in (LeftoverKind.CORRUPT, LeftoverKind.NEWER, LeftoverKind.MISPLACED)


@dataclass(frozen=True, slots=True)
class Leftover:
    """One key that is not as it should be, and why, for a person."""

    kind: LeftoverKind
    key: str
    text: str


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session that has a key or is named by a lock. Without a key `record` is None, without a proof `obituary`."""

    ref: SessionRef
    standing: Standing
    record: SessionRecord | None
    obituary: Obituary | None
    locks: int


@dataclass(frozen=True, slots=True)
class LockView:
    """A domain's lock and how its owner stands."""

    stored: StoredDomain
    standing: Standing
    obituary: Obituary | None

    @property
    def stale(self) -> bool:
        """Whether the session that it names has no key."""
        return self.standing is not Standing.ALIVE

    def takeover(self, *, needs: str) -> Takeover:
        """Whether it may be taken over, in a cluster whose rule `takeover_needs` is `needs`."""
        if self.obituary is not None:
            return Takeover.NOW
        if not self.stale:
            return Takeover.NO
        return Takeover.AFTER_SILENCE if needs == "silence" else Takeover.AFTER_CONFIRMATION

    def blocker(self, resource: Resource | None, /) -> Blocker:
        """This lock as a reason for a refusal."""
        record = self.stored.record
        return Blocker(
            domain=record.domain,
            resource=resource,
            owner=record.owner,
            state=record.state,
            since=record.since,
            token=self.stored.token,
            alive=not self.stale,
            proof=self.obituary.proof if self.obituary else None,
        )


@dataclass(frozen=True, slots=True)
class Survey:
    """A cluster at one revision; everything in the order of its names."""

    revision: int
    contract: Mapping[str, Any] | None
    sessions: tuple[SessionView, ...]
    locks: tuple[LockView, ...]
    resources: tuple[StoredResource, ...]
    obituaries: tuple[Obituary, ...]
    leftovers: tuple[Leftover, ...]
    fencings: tuple[StoredFencing, ...] = ()
    obituary_revisions: tuple[tuple[Obituary, int], ...] = ()

    @property
    def stale_locks(self) -> tuple[LockView, ...]:
        """The locks whose session has no key."""
        return tuple(lock for lock in self.locks if lock.stale)

    @property
    def unreadable(self) -> tuple[Leftover, ...]:
        """The keys whose meaning is not known."""
        return tuple(item for item in self.leftovers if item.kind.unreadable)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host that is named by a session, a lock or an obituary."""
        return tuple(sorted({view.ref.host for view in self.sessions} | {item.dead.host for item in self.obituaries}))

    def fencing_of(self, host: str, /) -> StoredFencing | None:
        """The latest attempt to fence a host."""
        return next((item for item in self.fencings if item.record.host == host), None)

    def lock_of(self, uuid: UUID, /) -> LockView | None:
        """The lock of one domain."""
        return next((lock for lock in self.locks if lock.stored.record.domain.uuid == uuid), None)


def take_survey(snapshot: Snapshot, /, *, keys: Keyspace) -> Survey:
    """Read the snapshot of `keys.everything`. Raises nothing for what it finds there."""
    shelves = _Shelves(keys)
    for stored in snapshot.found:
        shelves.put(stored)
    alive = {record.ref: record for record in shelves.sessions}
    proofs = {obituary.dead: obituary for obituary in shelves.obituaries}
    return Survey(
        revision=snapshot.revision,
        contract=shelves.contract,
        sessions=_session_views(shelves, alive, proofs),
        locks=_lock_views(shelves, alive, proofs),
        resources=tuple(shelves.resources),
        obituaries=tuple(shelves.obituaries),
        leftovers=(*shelves.leftovers, *_disagreements(shelves), *_needless(shelves, alive)),
        fencings=tuple(shelves.fencings),
        obituary_revisions=tuple((item, shelves.written_at[keys.obituary(item.dead)]) for item in shelves.obituaries),
    )


# --- one key after the other ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Shelves:
    """The records by kind, while the snapshot is read."""

    keys: Keyspace
    contract: Mapping[str, Any] | None = None
    sessions: list[SessionRecord] = field(default_factory=list)
    obituaries: list[Obituary] = field(default_factory=list)
    domains: list[StoredDomain] = field(default_factory=list)
    resources: list[StoredResource] = field(default_factory=list)
    fencings: list[StoredFencing] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)
    written_at: dict[str, int] = field(default_factory=dict)

    def put(self, stored: KeyValue, /) -> None:
        """Read one key and file it; what cannot be read becomes a leftover."""
        self.written_at[stored.key] = stored.mod_revision
        try:
            self._file(stored)
        except NewerFormat as error:
            self.leftovers.append(Leftover(LeftoverKind.NEWER, stored.key, f"{error}; {error.hint}"))
        except CorruptRecord as error:
            self.leftovers.append(Leftover(LeftoverKind.CORRUPT, stored.key, str(error)))

    def _file(self, stored: KeyValue, /) -> None:
        keys, key = self.keys, stored.key
        if key == keys.contract:
            self.contract = decode_contract(stored)
        elif key.startswith(keys.sessions().key):
            self._add(self.sessions, decode_session(stored), key, lambda record: keys.session(record.ref))
        elif key.startswith(keys.obituaries.key):
            self._add(self.obituaries, decode_obituary(stored), key, lambda record: keys.obituary(record.dead))
        elif key.startswith(keys.fencings.key):
            self._add(self.fencings, decode_fencing(stored), key, lambda item: keys.fencing(item.record.host))
        elif key.startswith(keys.domains.key):
            self._add(self.domains, decode_domain(stored), key, lambda item: _domain_key(keys, item))
        elif key.startswith(keys.resources.key):
            self._add(self.resources, decode_resource(stored), key, lambda item: _resource_key(keys, item))
        else:
            self.leftovers.append(Leftover(LeftoverKind.UNKNOWN, key, f"{key}: etcdlock writes no such key"))

    def _add(self, shelf: list[R], record: R, key: str, belongs_at: Callable[[R], str]) -> None:
        """File a record, if it lies where its own words would have put it."""
        try:
            where = belongs_at(record)
        except (InvalidInput, ValueError) as error:
            where = f"no key at all ({error})"
        if where == key:
            shelf.append(record)
        else:
            self.leftovers.append(Leftover(LeftoverKind.MISPLACED, key, f"{key}: what it says belongs at {where}"))


def _domain_key(keys: Keyspace, item: StoredDomain) -> str:
    """Where the domain lies; an error if it lists what no key can hold."""
    for resource in item.record.resources:
        keys.resource(resource, uuid=item.record.domain.uuid)
    return keys.domain(item.record.domain.uuid)


def _resource_key(keys: Keyspace, item: StoredResource) -> str:
    return keys.resource(item.record.resource, uuid=item.record.domain.uuid)


# --- what the records say together ---------------------------------------------------------------------------------


def _standing(
    ref: SessionRef, alive: Mapping[SessionRef, SessionRecord], proofs: Mapping[SessionRef, Obituary]
) -> Standing:
    if ref in alive:
        return Standing.ALIVE
    return Standing.DEAD if ref in proofs else Standing.SILENT


def _session_views(
    shelves: _Shelves, alive: Mapping[SessionRef, SessionRecord], proofs: Mapping[SessionRef, Obituary]
) -> tuple[SessionView, ...]:
    locks = Counter(item.record.owner for item in shelves.domains)
    return tuple(
        SessionView(ref, _standing(ref, alive, proofs), alive.get(ref), proofs.get(ref), locks[ref])
        for ref in sorted(alive.keys() | locks.keys())
    )


def _lock_views(
    shelves: _Shelves, alive: Mapping[SessionRef, SessionRecord], proofs: Mapping[SessionRef, Obituary]
) -> tuple[LockView, ...]:
    ordered = sorted(shelves.domains, key=lambda item: (item.record.domain.name, item.record.domain.uuid))
    return tuple(
        LockView(item, _standing(item.record.owner, alive, proofs), proofs.get(item.record.owner)) for item in ordered
    )


def _disagreements(shelves: _Shelves) -> tuple[Leftover, ...]:
    """A resource's key must name a domain if and only if that domain lists it; a key already reported is left out."""
    keys, reported = shelves.keys, {item.key for item in shelves.leftovers}
    listed = [
        (keys.resource(resource, uuid=item.record.domain.uuid), item)
        for item in shelves.domains
        for resource in item.record.resources
    ]
    standing = {_resource_key(keys, item): item for item in shelves.resources}
    known = {(key, item.record.domain.uuid) for key, item in listed}
    holders = {key: item.record.domain.uuid for key, item in standing.items()}
    stray = [
        _stray(key, item)
        for key, item in standing.items()
        if (key, holders[key]) not in known and keys.domain(holders[key]) not in reported
    ]
    missing = [
        _missing(key, item)
        for key, item in listed
        if key not in reported and holders.get(key) != item.record.domain.uuid
    ]
    return (*stray, *missing)


def _stray(key: str, item: StoredResource) -> Leftover:
    domain, resource = item.record.domain, escaped(str(item.record.resource))
    text = f"{key}: names domain {domain.uuid} as holder of {resource}, and that domain has no lock that lists it"
    return Leftover(LeftoverKind.STRAY_RESOURCE, key, text)


def _missing(key: str, item: StoredDomain) -> Leftover:
    text = f"{key}: domain {escaped(str(item.record.domain))} lists it, and has no lock there"
    return Leftover(LeftoverKind.MISSING_RESOURCE, key, text)


def _needless(shelves: _Shelves, alive: Mapping[SessionRef, SessionRecord]) -> tuple[Leftover, ...]:
    """Obituaries that no lock needs, as far as every lock could be read."""
    keys, owners = shelves.keys, {item.record.owner for item in shelves.domains}
    unread = any(item.key.startswith(keys.domains.key) for item in shelves.leftovers)
    found = []
    for obituary in shelves.obituaries:
        key, dead = keys.obituary(obituary.dead), escaped(str(obituary.dead))
        if obituary.dead in alive:
            found.append(Leftover(LeftoverKind.LIVING_DEAD, key, f"{key}: session {dead} has a key as well"))
        elif obituary.dead not in owners and not unread:
            found.append(Leftover(LeftoverKind.IDLE_OBITUARY, key, f"{key}: no lock names session {dead} any more"))
    return tuple(found)
