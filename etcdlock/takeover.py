"""What stands in the way of an acquire, and when it may be taken away; pure.

A lock of another session is given away only with a proof of that session's end which is itself a record in etcd: its
obituary. That the lock is parked proves nothing: its guest was stopped once, and may have been let run on by whoever
runs it without a word to anybody. What was read only proposes; the transaction compares every proof and every record
again, so nothing that changed in between is taken.

All that is wanted is taken in one transaction: the domain itself, free resources, and resources of any number of dead
domains, whose own records are rewritten without them. What they lost stays on record there: should a guest of theirs
have been frozen, or its memory be on its way to another host, it must not go on, though all of it came free again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from etcdlock.keyspace import Keyspace
from etcdlock.model import (
    Blocker,
    DomainRecord,
    Handover,
    Obituary,
    Resource,
    SessionRef,
    StoredDomain,
    StoredResource,
)
from etcdlock.ports import Compare, Delete, Get, KeyRange, Op, Put, Txn, TxnResult
from etcdlock.records import decode_domain, decode_first, decode_resource, encode_domain
from etcdlock.session import Session
from etcdlock.transitions import (
    Transition,
    Wanted,
    absent,
    grown,
    nothing_newer,
    own,
    present,
    put_domain,
    put_resources,
    remembered,
    unchanged,
)


@dataclass(frozen=True, slots=True)
class Obstacles:
    """What a refused acquire found in its way, at `revision`."""

    revision: int
    session_epoch: int
    domain: StoredDomain | None
    resources: tuple[StoredResource, ...]

    @property
    def owners(self) -> frozenset[UUID]:
        """The domains whose records tell who holds all this."""
        uuids = {item.record.domain.uuid for item in self.resources}
        return frozenset(uuids | ({self.domain.record.domain.uuid} if self.domain else set()))


def read_obstacles(result: TxnResult, /) -> Obstacles:
    """Parse the failure branch of `transitions.acquire`; raises `CorruptRecord`. Epoch 0: our session's key is gone."""
    session, domain, *rivals = result.replies
    return Obstacles(
        revision=result.revision,
        session_epoch=session[0].mod_revision if session else 0,
        domain=decode_first(domain, decode_domain),
        resources=tuple(decode_resource(found) for group in rivals for found in group),
    )


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the owners: their domains' records, who lives, who is proven dead."""

    domains: Mapping[UUID, StoredDomain] = field(default_factory=dict)
    living: frozenset[SessionRef] = frozenset()
    obituaries: Mapping[SessionRef, Obituary] = field(default_factory=dict)

    def may_be_taken(self, stored: StoredDomain, /) -> bool:
        """Whether there is a proof of its owner's end."""
        return stored.record.owner in self.obituaries


def look_at_domains(keys: Keyspace, uuids: frozenset[UUID], /) -> Txn:
    """Read the owners' records."""
    return Txn((), tuple(Get(KeyRange(keys.domain(uuid))) for uuid in sorted(uuids)))


def look_at_sessions(keys: Keyspace, refs: frozenset[SessionRef], /) -> Txn:
    """Read session key and obituary of each, in that order."""
    ordered = sorted(refs)
    return Txn(
        (),
        tuple(Get(KeyRange(key)) for ref in ordered for key in (keys.session(ref), keys.obituary(ref))),
    )


def blockers(obstacles: Obstacles, evidence: Evidence, /) -> tuple[Blocker, ...]:
    """Everything that is in the way and may not be taken; empty if a takeover may be tried."""
    found = []
    if obstacles.domain is not None and not evidence.may_be_taken(obstacles.domain):
        found.append(_blocker(obstacles.domain, None, evidence))
    for item in obstacles.resources:
        uuid = item.record.domain.uuid
        if obstacles.domain is not None and uuid == obstacles.domain.record.domain.uuid:
            continue
        stored = evidence.domains.get(uuid)
        if stored is None or not any(_same(item.record.resource, listed) for listed in stored.record.resources):
            found.append(Blocker(domain=item.record.domain, resource=item.record.resource))
        elif not evidence.may_be_taken(stored):
            found.append(_blocker(stored, item.record.resource, evidence))
    return tuple(found)


def _blocker(stored: StoredDomain, resource: Resource | None, evidence: Evidence) -> Blocker:
    record = stored.record
    return Blocker(
        domain=record.domain,
        resource=resource,
        owner=record.owner,
        state=record.state,
        since=record.since,
        token=stored.token,
        alive=record.owner in evidence.living,
    )


def take_over(
    keys: Keyspace,
    session: Session,
    wanted: Wanted,
    /,
    *,
    obstacles: Obstacles,
    evidence: Evidence,
    victim_request: str,
) -> Transition:
    """Take the wanted domain and resources from sessions that are proven dead. Call only if `blockers` found none."""
    before, uuid = obstacles.domain, wanted.domain.uuid
    old = {keys.resource(resource, uuid=uuid) for resource in before.record.resources} if before else set()
    key = keys.domain(uuid)
    return _seize(
        keys,
        session,
        replace(wanted.record(session), history=before.record.history if before else ()),
        wanted.locked,
        given_up=old,
        compares=(
            unchanged(key, before.mod_revision) if before else absent(KeyRange(key)),
            *_proofs(keys, [before] if before else []),
        ),
        obstacles=obstacles,
        evidence=evidence,
        victim_request=victim_request,
        before=before,
    )


def extend(
    keys: Keyspace,
    session: Session,
    stored: StoredDomain,
    resource: Resource,
    /,
    *,
    obstacles: Obstacles,
    evidence: Evidence,
    request: str,
    victim_request: str,
) -> Transition:
    """One more resource for a domain of ours, taken from sessions that are proven dead. As `take_over` otherwise."""
    return _seize(
        keys,
        session,
        grown(stored, resource, request=request),
        (resource,),
        given_up=set(),
        compares=(unchanged(keys.domain(stored.record.domain.uuid), stored.mod_revision),),
        obstacles=obstacles,
        evidence=evidence,
        victim_request=victim_request,
    )


def _seize(
    keys: Keyspace,
    session: Session,
    record: DomainRecord,
    taken: tuple[Resource, ...],
    /,
    *,
    given_up: set[str],
    compares: tuple[Compare, ...],
    obstacles: Obstacles,
    evidence: Evidence,
    victim_request: str,
    before: StoredDomain | None = None,
) -> Transition:
    """Write `record` with what it takes, and every victim's record without it. `given_up` are keys that may go;
    `before` is the domain itself, where another had it.
    """
    domain = record.domain
    victims = [evidence.domains[item] for item in sorted(obstacles.owners - {domain.uuid})]
    taken_from = ([before] if before else []) + victims
    record = replace(record, history=remembered(record.history, *(_handover(one, evidence) for one in taken_from)))
    lost = [_lost_by(victim, taken) for victim in victims]
    writes: list[Op] = [
        put_domain(keys, record),
        *put_resources(keys, domain, taken),
        *(_without(keys, victim, gone, request=victim_request) for victim, gone in zip(victims, lost, strict=True)),
    ]
    written = {write.key for write in writes if isinstance(write, Put)}
    theirs = {
        keys.resource(resource, uuid=victim.record.domain.uuid)
        for victim, gone in zip(victims, lost, strict=True)
        for resource in gone
    }
    txn = Txn(
        compare=(
            own(keys, session),
            *compares,
            *(unchanged(keys.domain(victim.record.domain.uuid), victim.mod_revision) for victim in victims),
            *_proofs(keys, victims),
            *(nothing_newer(keys.rivals(resource), obstacles.revision) for resource in taken),
        ),
        success=(*writes, *(Delete(KeyRange(key)) for key in sorted((given_up | theirs) - written))),
        failure=(Get(KeyRange(keys.session(session.ref))), Get(KeyRange(keys.domain(domain.uuid)))),
    )
    return Transition(txn, domain.uuid, record)


def _handover(stored: StoredDomain, evidence: Evidence) -> Handover:
    owner = stored.record.owner
    proof = evidence.obituaries.get(owner)  # without one the transaction fails
    why, when = (proof.proof, proof.when) if proof else ("", "")
    return Handover(stored.record.domain, owner, stored.token, why, when)


def _proofs(keys: Keyspace, taken_from: list[StoredDomain]) -> tuple[Compare, ...]:
    owners = {stored.record.owner for stored in taken_from}
    return tuple(present(keys.obituary(owner)) for owner in sorted(owners))


def _same(one: Resource, other: Resource) -> bool:
    return (one.lockspace, one.name) == (other.lockspace, other.name)


def _lost_by(victim: StoredDomain, taken: tuple[Resource, ...]) -> tuple[Resource, ...]:
    return tuple(r for r in victim.record.resources if any(_same(r, w) for w in taken))


def _without(keys: Keyspace, victim: StoredDomain, lost: tuple[Resource, ...], /, *, request: str) -> Put:
    left = tuple(resource for resource in victim.record.resources if resource not in lost)
    taken_over = (*victim.record.taken_over, *lost)
    record = replace(victim.record, resources=left, request=request, token=victim.token, taken_over=taken_over)
    return Put(keys.domain(record.domain.uuid), encode_domain(record))
