"""Every transition of a lock, each one etcd transaction; pure: records in, a transaction out.

Guaranteed by what is compared:

- Every transition of a session compares the session key's `mod_revision` with the session's epoch. A session that is
  gone changes nothing, and a barrier makes all of its transactions that are still under way fail for ever.
- Whatever rewrites a domain compares the domain's `mod_revision`: of claim, unpark, re-join and takeover exactly one
  wins.
- A resource's key names a domain if and only if that domain's record lists it: both are always written together.
- A record's `run` changes with every transition that lets a guest run (acquire, takeover, claim, unpark) and with no
  other; undoing a claim brings its source's back. So it tells of which run of the domain a guest's memory is.

Not decided here: what an answer means (`outcomes`) and when to send (`agent`). No clock is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from uuid import UUID

from etcdlock.escalation import Action
from etcdlock.identity import with_wholes
from etcdlock.keyspace import Keyspace
from etcdlock.model import (
    DomainId,
    DomainRecord,
    Handover,
    LockState,
    Mode,
    Obituary,
    Resource,
    ResourceRecord,
    SessionRecord,
    SessionRef,
    StoredDomain,
)
from etcdlock.ports import Compare, Delete, Get, KeyRange, Op, Put, Relation, Target, Txn
from etcdlock.records import FORMAT_VERSION, encode_domain, encode_obituary, encode_resource, encode_session
from etcdlock.session import Contract, Session


@dataclass(frozen=True, slots=True)
class Wanted:
    """A domain to be locked with all its resources, or not at all.

    `request` is a fresh random id; `since` the wall clock, for people; `on_session_lost` the guest's own choice.
    """

    domain: DomainId
    resources: tuple[Resource, ...]
    request: str
    since: str
    pid: int = 0
    pid_start: int = 0
    on_session_lost: Action | None = None

    @property
    def locked(self) -> tuple[Resource, ...]:
        """The resources that take a lock, with the disks that partitions are part of; read-only ones take none."""
        return with_wholes(resource for resource in self.resources if resource.mode is not Mode.READ_ONLY)

    def record(self, session: Session, /) -> DomainRecord:
        """The domain's record once `session` has it; its token is the revision that writes it."""
        return DomainRecord(
            domain=self.domain,
            owner=session.ref,
            machine=session.record.machine,
            state=LockState.HELD,
            pid=self.pid,
            pid_start=self.pid_start,
            resources=self.locked,
            request=self.request,
            token=None,
            since=self.since,
            run=self.request,
            on_session_lost=self.on_session_lost,
        )


@dataclass(frozen=True, slots=True)
class Transition:
    """A transaction on one domain, and the record it leaves: None if the domain's lock is gone after it.

    The failure branch always reads the session's key first and the domain's second. A claim keeps, as `source`, the
    parked record that it takes the place of: until its guest may run, the domain can be handed back.
    """

    txn: Txn
    uuid: UUID
    after: DomainRecord | None
    source: StoredDomain | None = None

    def was_applied(self, found: StoredDomain | None, /) -> bool:
        """Whether this is what a lost transaction did, going by the domain as a barrier found it."""
        if self.after is None:
            return found is None
        return found is not None and found.record.request == self.after.request

    def stored(self, revision: int, /) -> StoredDomain | None:
        """The domain after the transaction committed at `revision`."""
        return None if self.after is None else StoredDomain(self.after, revision)


MIGRATION = "migration"
"""Why a destination has its domain."""
MOST_REMEMBERED = 4


def remembered(history: tuple[Handover, ...], /, *latest: Handover) -> tuple[Handover, ...]:
    """The latest of a domain's owners: enough to tell what happened, and no burden for every later rewrite."""
    return (*history, *latest)[-MOST_REMEMBERED:]


# --- compares -----------------------------------------------------------------------------------------------------


def absent(where: KeyRange, /) -> Compare:
    """No such key, or none at all in the range."""
    return Compare(where, Target.CREATE_REVISION, Relation.EQUAL, 0)


def present(key: str, /) -> Compare:
    """The key exists."""
    return Compare(KeyRange(key), Target.CREATE_REVISION, Relation.GREATER, 0)


def unchanged(key: str, mod_revision: int, /) -> Compare:
    """The key was last written at this revision."""
    return Compare(KeyRange(key), Target.MOD_REVISION, Relation.EQUAL, mod_revision)


def nothing_newer(where: KeyRange, revision: int, /) -> Compare:
    """No key of the range was written after `revision`; keys may have gone."""
    return Compare(where, Target.MOD_REVISION, Relation.LESS, revision + 1)


def own(keys: Keyspace, session: Session, /) -> Compare:
    """The session lives and no barrier has been put since its epoch began."""
    return unchanged(keys.session(session.ref), session.epoch)


# --- the session itself -------------------------------------------------------------------------------------------


def join(
    keys: Keyspace, record: SessionRecord, /, *, lease: int, contract: Contract, contract_revision: int, seen: int
) -> Txn:
    """Become a session.

    `contract_revision` is the revision of the cluster's contract as it was read and found equal, 0 if there was none:
    then this writes it. `seen` is the revision at which our host's sessions were read and judged.
    """
    mine = keys.sessions(record.ref.host)
    writes: tuple[Op, ...] = (Put(keys.session(record.ref), encode_session(record), lease),)
    if not contract_revision:
        writes += (Put(keys.contract, encode_contract(contract)),)
    return Txn(
        compare=(unchanged(keys.contract, contract_revision), nothing_newer(mine, seen)),
        success=writes,
        failure=(Get(KeyRange(keys.contract)), Get(mine)),
    )


def encode_contract(contract: Contract, /) -> bytes:
    """Value of the cluster's contract."""
    return json.dumps({"v": FORMAT_VERSION, **contract.as_mapping()}, separators=(",", ":")).encode()


def heartbeat(keys: Keyspace, session: Session, /) -> Txn:
    """Prove through Raft that the session's key stands, leaving revision and history untouched."""
    key = keys.session(session.ref)
    return Txn(
        compare=(_joined(keys, session),),
        success=(Delete(KeyRange(keys.never)),),
        failure=(Get(KeyRange(key)),),
    )


def resume(keys: Keyspace, session: Session, /) -> Txn:
    """Go on with a session that an earlier program has kept: a new epoch, in which nothing of its own can commit."""
    key = keys.session(session.ref)
    return Txn(
        compare=(_joined(keys, session),),
        success=(Put(key, encode_session(session.record), session.lease),),
        failure=(Get(KeyRange(key)),),
    )


def barrier(keys: Keyspace, session: Session, /, *, uuid: UUID) -> Txn:
    """Begin a new epoch and read one domain in the same step.

    Once it has an answer, no transaction of the session's earlier epochs can ever commit, so what it read is what was
    done. If it fails, the session's key is gone, and that says the same.
    """
    key = keys.session(session.ref)
    look = Get(KeyRange(keys.domain(uuid)))
    return Txn(
        compare=(_joined(keys, session),),
        success=(Put(key, encode_session(session.record), session.lease), look),
        failure=(look,),
    )


def leave(keys: Keyspace, session: Session, /, *, obituary: Obituary | None) -> Txn:
    """End the session in order; with an obituary where records that name it could not be released."""
    key = keys.session(session.ref)
    writes: tuple[Op, ...] = (Delete(KeyRange(key)),)
    if obituary is not None:
        writes += (Put(keys.obituary(obituary.dead), encode_obituary(obituary)),)
    return Txn(compare=(_joined(keys, session),), success=writes, failure=(Get(KeyRange(key)),))


def confirm_missing(keys: Keyspace, ref: SessionRef, /) -> Txn:
    """See through Raft whether a session's key is missing. A plain read is not enough: it may be older than the key."""
    key = KeyRange(keys.session(ref))
    return Txn(compare=(absent(key),), success=(Delete(KeyRange(keys.never)),), failure=(Get(key),))


def write_obituary(keys: Keyspace, obituary: Obituary, /) -> Txn:
    """Record the proof of a session's end; refused while its key lives, and the first proof stays."""
    session, lost = KeyRange(keys.session(obituary.dead)), KeyRange(keys.obituary(obituary.dead))
    return Txn(
        compare=(absent(session), absent(lost)),
        success=(Put(lost.key, encode_obituary(obituary)),),
        failure=(Get(session), Get(lost)),
    )


# --- taking and giving back ---------------------------------------------------------------------------------------


def all_domains(keys: Keyspace, /) -> Txn:
    """Read all domains, through Raft: an old state might leave out one whose guest runs."""
    return Txn((), (Delete(KeyRange(keys.never)), Get(keys.domains)))


def acquire(keys: Keyspace, session: Session, wanted: Wanted, /) -> Transition:
    """Domain and resources, if all are free; else read whatever stands in the way."""
    domain, record = KeyRange(keys.domain(wanted.domain.uuid)), wanted.record(session)
    rivals = tuple(keys.rivals(resource) for resource in wanted.locked)
    txn = Txn(
        compare=(own(keys, session), absent(domain), *(absent(where) for where in rivals)),
        success=(put_domain(keys, record), *put_resources(keys, wanted.domain, wanted.locked)),
        failure=(Get(KeyRange(keys.session(session.ref))), Get(domain), *(Get(where) for where in rivals)),
    )
    return Transition(txn, wanted.domain.uuid, record)


def release(keys: Keyspace, session: Session, stored: StoredDomain, /) -> Transition:
    """Give back the domain and all its resources. The guest must be gone."""
    uuid = stored.record.domain.uuid
    deletes = (Delete(KeyRange(keys.resource(resource, uuid=uuid))) for resource in stored.record.resources)
    return _rewrite(keys, session, stored, None, *deletes)


def add_resource(
    keys: Keyspace, session: Session, stored: StoredDomain, resource: Resource, /, *, request: str
) -> Transition:
    """One more resource for a domain held, if it is free."""
    after = grown(stored, resource, request=request)
    change = _rewrite(keys, session, stored, after, *put_resources(keys, stored.record.domain, (resource,)))
    rivals = keys.rivals(resource)
    txn = change.txn
    return replace(
        change, txn=replace(txn, compare=(*txn.compare, absent(rivals)), failure=(*txn.failure, Get(rivals)))
    )


def grown(stored: StoredDomain, resource: Resource, /, *, request: str) -> DomainRecord:
    """The next record of the same ownership, with one more resource."""
    return _carried(stored, request=request, resources=(*stored.record.resources, resource))


def remove_resource(
    keys: Keyspace, session: Session, stored: StoredDomain, resource: Resource, /, *, request: str
) -> Transition:
    """One resource less for a domain held; the guest must have closed it."""
    shrunk = _carried(stored, request=request, resources=tuple(r for r in stored.record.resources if r != resource))
    key = keys.resource(resource, uuid=stored.record.domain.uuid)
    return _rewrite(keys, session, stored, shrunk, Delete(KeyRange(key)))


# --- one key, all transitions ordered by its revision -----------------------------------------------------------------


def park(keys: Keyspace, session: Session, stored: StoredDomain, /, *, request: str) -> Transition:
    """The guest's vCPUs have stopped."""
    return _rewrite(keys, session, stored, _carried(stored, request=request, state=LockState.PARKED))


def unpark(keys: Keyspace, session: Session, stored: StoredDomain, /, *, request: str) -> Transition:
    """The guest's vCPUs are about to run again here: another run, also where etcd was never told that they stopped."""
    after = replace(_carried(stored, request=request, state=LockState.HELD), run=request)
    return _rewrite(keys, session, stored, after)


def claim(keys: Keyspace, session: Session, stored: StoredDomain, wanted: Wanted, /) -> Transition:
    """The destination of a migration takes the parked lock of the same domain, with a new token, resources as they are.

    Raises `ValueError` for a domain that is not parked: its guest may be running.
    """
    if stored.record.state is not LockState.PARKED:
        raise ValueError(f"domain {stored.record.domain} is not parked")
    handover = Handover(stored.record.domain, stored.record.owner, stored.token, MIGRATION, wanted.since)
    history = remembered(stored.record.history, handover)
    after = replace(wanted.record(session), resources=stored.record.resources, history=history)
    return replace(_rewrite(keys, session, stored, after), source=stored)


def hand_back(
    keys: Keyspace, session: Session, stored: StoredDomain, /, *, source: StoredDomain, request: str
) -> Transition:
    """Undo a claim: the domain is its source's again, parked, with the token it had there. What was added is given up.

    Only for a claim whose guest was never let run: then the source's memory is still the latest, and so is its run.
    """
    before, uuid = source.record, stored.record.domain.uuid
    kept = tuple(resource for resource in before.resources if resource in stored.record.resources)
    added = (resource for resource in stored.record.resources if resource not in kept)
    taken_over = tuple(resource for resource in stored.record.taken_over if resource in before.resources)
    after = replace(before, resources=kept, request=request, token=source.token, taken_over=taken_over)
    deletes = (Delete(KeyRange(keys.resource(resource, uuid=uuid))) for resource in added)
    return replace(_rewrite(keys, session, stored, after, *deletes), source=source)


def rejoin(keys: Keyspace, session: Session, stored: StoredDomain, /, *, request: str) -> Transition:
    """The same host carries a domain from its lost session over into its new one; the token stays."""
    return _rewrite(keys, session, stored, _carried(stored, request=request, owner=session.ref))


# --- parts --------------------------------------------------------------------------------------------------------


def _joined(keys: Keyspace, session: Session, /) -> Compare:
    """The session's key stands, in whatever epoch."""
    where = KeyRange(keys.session(session.ref))
    return Compare(where, Target.CREATE_REVISION, Relation.EQUAL, session.create_revision)


def _rewrite(
    keys: Keyspace, session: Session, stored: StoredDomain, after: DomainRecord | None, /, *others: Op
) -> Transition:
    uuid = stored.record.domain.uuid
    key = keys.domain(uuid)
    write = Delete(KeyRange(key)) if after is None else put_domain(keys, after)
    txn = Txn(
        compare=(own(keys, session), unchanged(key, stored.mod_revision)),
        success=(write, *others),
        failure=(Get(KeyRange(keys.session(session.ref))), Get(KeyRange(key))),
    )
    return Transition(txn, uuid, after)


def _carried(
    stored: StoredDomain,
    /,
    *,
    request: str,
    state: LockState | None = None,
    owner: SessionRef | None = None,
    resources: tuple[Resource, ...] | None = None,
) -> DomainRecord:
    """The next record of the same ownership: whatever else changes, the token is carried along."""
    record = stored.record
    return replace(
        record,
        request=request,
        token=stored.token,
        state=record.state if state is None else state,
        owner=record.owner if owner is None else owner,
        resources=record.resources if resources is None else resources,
    )


def put_domain(keys: Keyspace, record: DomainRecord, /) -> Put:
    """Write a domain's record under its key."""
    return Put(keys.domain(record.domain.uuid), encode_domain(record))


def put_resources(keys: Keyspace, domain: DomainId, resources: tuple[Resource, ...], /) -> tuple[Put, ...]:
    """Write the keys that name `domain` as holder of each resource."""
    return tuple(
        Put(keys.resource(resource, uuid=domain.uuid), encode_resource(ResourceRecord(domain, resource)))
        for resource in resources
    )
