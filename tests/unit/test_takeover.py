"""What stands in the way of an acquire, and what is taken when everything in the way is proven dead."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from etcdlock.errors import CorruptRecord
from etcdlock.keyspace import Keyspace
from etcdlock.model import (
    Blocker,
    DomainId,
    DomainRecord,
    LockState,
    Machine,
    Mode,
    Obituary,
    Proof,
    Resource,
    ResourceRecord,
    SessionKind,
    SessionRecord,
    SessionRef,
    StoredDomain,
    StoredResource,
)
from etcdlock.ports import Delete, KeyRange, KeyValue, Put, TxnResult
from etcdlock.records import encode_domain, encode_resource
from etcdlock.session import Session
from etcdlock.takeover import Evidence, Obstacles, blockers, look_at_sessions, read_obstacles, take_over
from etcdlock.transitions import Wanted, absent, nothing_newer, present, unchanged

KEYS = Keyspace()
ME = Session(SessionRecord(SessionRef("me", "s"), Machine("b", "m"), SessionKind.RUN, "1", "", ""), 1, 2, 2, 0.0)
DEAD, LIVING = SessionRef("dead", "s"), SessionRef("living", "s")
NEW = DomainId(UUID(int=9), "new")


def disk(name: str, mode: Mode = Mode.EXCLUSIVE) -> Resource:
    return Resource("path", name, mode, name)


def held(number: int, owner: SessionRef, *resources: Resource, state: LockState = LockState.HELD) -> StoredDomain:
    record = DomainRecord(
        DomainId(UUID(int=number), f"vm{number}"), owner, Machine("b", "m"), state, 1, 1, resources, "r", 4, "then"
    )
    return StoredDomain(record, 10 + number)


def evidence(*domains: StoredDomain, proven: tuple[SessionRef, ...] = (DEAD,)) -> Evidence:
    return Evidence(
        {stored.record.domain.uuid: stored for stored in domains},
        frozenset({LIVING}),
        {ref: Obituary(ref, Proof.SILENCE, "", "", "") for ref in proven},
    )


def in_the_way(*held_by: tuple[StoredDomain, Resource], domain: StoredDomain | None = None) -> Obstacles:
    found = tuple(
        StoredResource(ResourceRecord(stored.record.domain, resource), stored.mod_revision)
        for stored, resource in held_by
    )
    return Obstacles(50, ME.epoch, domain, found)


def take(obstacles: Obstacles, known: Evidence, *resources: Resource, who: DomainId = NEW) -> tuple[set[str], set[str]]:
    """Keys written and keys deleted."""
    wanted = Wanted(who, resources, "mine", "")
    assert blockers(obstacles, known) == ()
    change = take_over(KEYS, ME, wanted, obstacles=obstacles, evidence=known, victim_request="v")
    written = {op.key for op in change.txn.success if isinstance(op, Put)}
    return written, {op.where.key for op in change.txn.success if isinstance(op, Delete)}


def test_everything_living_that_is_in_the_way_is_named_and_what_is_dead_is_not() -> None:
    dead, one, two = held(1, DEAD, disk("x")), held(2, LIVING, disk("y")), held(3, LIVING, disk("z"))
    found = blockers(
        in_the_way((dead, disk("x")), (one, disk("y")), (two, disk("z"))), evidence(dead, one, two)
    )
    assert [(str(blocker.resource), blocker.owner, blocker.alive) for blocker in found] == [
        ("y", LIVING, True),
        ("z", LIVING, True),
    ]


def test_without_an_obituary_a_silent_host_is_in_the_way_and_not_called_alive() -> None:
    silent = held(1, DEAD, disk("x"))
    (found,) = blockers(in_the_way((silent, disk("x"))), evidence(silent, proven=()))
    assert found.alive is False
    assert found.token == 4


def test_a_parked_domain_is_in_the_way_until_the_end_of_its_session_is_proven() -> None:
    silent = held(1, SessionRef("silent", "s"), disk("x"), state=LockState.PARKED)
    there = held(2, LIVING, disk("y"), state=LockState.PARKED)
    dead = held(3, DEAD, disk("z"), state=LockState.PARKED)
    items = in_the_way((silent, disk("x")), (there, disk("y")), (dead, disk("z")))
    found = blockers(items, evidence(silent, there, dead))
    assert [(blocker.domain, blocker.state) for blocker in found] == [
        (silent.record.domain, LockState.PARKED),
        (there.record.domain, LockState.PARKED),
    ]


@pytest.mark.parametrize("known", [[], [held(1, DEAD, disk("other"))]], ids=["no record", "a record without it"])
def test_a_key_that_no_record_accounts_for_is_nobodys_for_free(known: list[StoredDomain]) -> None:
    stray = held(1, DEAD)
    found = blockers(in_the_way((stray, disk("x"))), evidence(*known))
    assert found == (Blocker(domain=stray.record.domain, resource=disk("x")),)


def test_a_takeover_takes_the_wanted_disks_alone_and_leaves_the_victim_the_rest() -> None:
    dead = held(1, DEAD, disk("x"), disk("kept"))
    written, deleted = take(in_the_way((dead, disk("x"))), evidence(dead), disk("x"), disk("free"))
    uuid = dead.record.domain.uuid
    assert written == {
        KEYS.domain(NEW.uuid),
        KEYS.domain(uuid),
        KEYS.resource(disk("x"), uuid=NEW.uuid),
        KEYS.resource(disk("free"), uuid=NEW.uuid),
    }
    assert deleted == set()


def test_a_writer_that_follows_dead_readers_removes_their_shared_locks() -> None:
    readers = [held(number, DEAD, disk("x", Mode.SHARED)) for number in (1, 2)]
    obstacles = in_the_way(*((reader, disk("x", Mode.SHARED)) for reader in readers))
    written, deleted = take(obstacles, evidence(*readers), disk("x"))
    assert KEYS.resource(disk("x"), uuid=NEW.uuid) in written
    assert deleted == {KEYS.resource(disk("x", Mode.SHARED), uuid=reader.record.domain.uuid) for reader in readers}


def test_the_same_domain_with_other_disks_gives_up_those_it_had() -> None:
    dead = held(9, DEAD, disk("old"), disk("kept"))
    obstacles = in_the_way((dead, disk("kept")), domain=dead)
    written, deleted = take(obstacles, evidence(dead), disk("kept"), who=dead.record.domain)
    assert KEYS.resource(disk("kept"), uuid=NEW.uuid) in written
    assert deleted == {KEYS.resource(disk("old"), uuid=NEW.uuid)}


def test_every_proof_every_record_and_every_range_is_compared_again() -> None:
    dead = held(1, DEAD, disk("x"))
    sleeping = held(2, SessionRef("gone", "s"), disk("y"), state=LockState.PARKED)
    obstacles, known = in_the_way((dead, disk("x")), (sleeping, disk("y"))), evidence(dead, sleeping)
    wanted = Wanted(NEW, (disk("x"), disk("y")), "mine", "")
    change = take_over(KEYS, ME, wanted, obstacles=obstacles, evidence=known, victim_request="v")
    assert set(change.txn.compare) == {
        unchanged(KEYS.session(ME.ref), ME.epoch),
        absent(KeyRange(KEYS.domain(NEW.uuid))),
        unchanged(KEYS.domain(dead.record.domain.uuid), dead.mod_revision),
        unchanged(KEYS.domain(sleeping.record.domain.uuid), sleeping.mod_revision),
        present(KEYS.obituary(DEAD)),
        present(KEYS.obituary(sleeping.record.owner)),
        nothing_newer(KEYS.rivals(disk("x")), obstacles.revision),
        nothing_newer(KEYS.rivals(disk("y")), obstacles.revision),
    }


def test_obstacles_are_read_with_our_own_epoch_or_zero_where_our_session_is_gone() -> None:
    stored = held(1, DEAD, disk("x"))
    uuid = stored.record.domain.uuid
    key, lock = KEYS.domain(uuid), KEYS.resource(disk("x"), uuid=uuid)
    resource = encode_resource(ResourceRecord(stored.record.domain, disk("x")))
    replies = (
        (KeyValue("session", b"", 2, 7),),
        (KeyValue(key, encode_domain(stored.record), 3, stored.mod_revision),),
        (KeyValue(lock, resource, 3, 3),),
    )
    found = read_obstacles(TxnResult(False, 60, replies))
    assert (found.revision, found.session_epoch, found.domain, found.owners) == (60, 7, stored, frozenset({uuid}))
    assert read_obstacles(TxnResult(False, 60, ((), *replies[1:]))).session_epoch == 0
    with pytest.raises(CorruptRecord):
        read_obstacles(TxnResult(False, 60, ((), (replace(replies[1][0], value=b"{}"),))))


def test_sessions_are_looked_up_each_with_its_obituary_behind_it() -> None:
    look = look_at_sessions(KEYS, frozenset({LIVING, DEAD}))
    keys = [op.where.key for op in look.success if not isinstance(op, Put)]
    assert keys == [KEYS.session(DEAD), KEYS.obituary(DEAD), KEYS.session(LIVING), KEYS.obituary(LIVING)]
