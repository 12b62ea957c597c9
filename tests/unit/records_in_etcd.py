"""A cluster's keys written by hand, for tests of what is read from them."""

from __future__ import annotations

from uuid import UUID

from etcdlock.keyspace import Keyspace
from etcdlock.model import (
    DomainId,
    DomainRecord,
    LockState,
    Machine,
    Mode,
    Obituary,
    Proof,
    Resource,
    SessionKind,
    SessionRecord,
    SessionRef,
)
from etcdlock.ports import KeyValue, Snapshot
from etcdlock.records import encode_obituary, encode_session
from etcdlock.survey import Survey, take_survey
from etcdlock.transitions import put_domain, put_resources

KEYS = Keyspace()
SINCE = "2026-01-01T00:00:00+00:00"
ALICE, BOB, CAROL = (SessionRef(host, f"{host}-1") for host in ("alice", "bob", "carol"))
VM = DomainId(UUID(int=0x1234), "vm")
OTHER = DomainId(UUID(int=0x5678), "other")
DISK = Resource("path", "/san/x", Mode.EXCLUSIVE, "/san/x")
ISO = Resource("path", "/san/iso", Mode.SHARED, "/san/iso")


def session(ref: SessionRef) -> dict[str, bytes]:
    """A session that lives."""
    record = SessionRecord(ref, Machine("boot", "machine"), SessionKind.RUN, "1", "10.0.0.1", SINCE)
    return {KEYS.session(ref): encode_session(record)}


def obituary(ref: SessionRef, proof: Proof = Proof.SILENCE) -> dict[str, bytes]:
    """The proof of a session's end."""
    return {KEYS.obituary(ref): encode_obituary(Obituary(ref, proof, "bob", "because", SINCE))}


def domain(
    who: DomainId, owner: SessionRef, *resources: Resource, state: LockState = LockState.HELD, listed: bool = True
) -> dict[str, bytes]:
    """A domain's lock with its resources; not `listed`, only the resources."""
    record = DomainRecord(
        domain=who,
        owner=owner,
        machine=Machine("boot", "machine"),
        state=state,
        pid=1,
        pid_start=2,
        resources=resources,
        request="r",
        token=7,
        since=SINCE,
    )
    puts = put_resources(KEYS, who, resources)
    return {put.key: put.value for put in ((put_domain(KEYS, record), *puts) if listed else puts)}


def survey(*parts: dict[str, bytes]) -> Survey:
    """What is read of all these together."""
    values = {key: value for part in parts for key, value in part.items()}
    found = (KeyValue(key, value, 1, revision) for revision, (key, value) in enumerate(sorted(values.items()), 2))
    return take_survey(Snapshot(99, tuple(found)), keys=KEYS)
