"""Of transitions that race for one domain exactly one wins; and what a session does to its own key."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from etcdlock.model import Machine, Obituary, Proof, SessionKind, SessionRecord, SessionRef, StoredDomain
from etcdlock.ports import KeyRange
from etcdlock.session import Contract, Session
from etcdlock.takeover import blockers, read_obstacles, take_over
from etcdlock.timing import Timing
from etcdlock.transitions import (
    acquire,
    claim,
    confirm_missing,
    heartbeat,
    join,
    leave,
    park,
    rejoin,
    unpark,
    write_obituary,
)
from tests.unit.bare_etcd import DISKS, DOMAINS, KEYS, Etcd, takeover


def parked(etcd: Etcd, session: Session) -> StoredDomain:
    assert etcd.apply(acquire(KEYS, session, etcd.wanted(DOMAINS[0], DISKS[0])).txn).succeeded
    stored = etcd.domains()[DOMAINS[0].uuid]
    assert etcd.apply(park(KEYS, session, stored, request=etcd.fresh()).txn).succeeded
    return etcd.domains()[DOMAINS[0].uuid]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_of_claim_unpark_and_rejoin_exactly_one_wins(order: tuple[int, ...]) -> None:
    etcd = Etcd()
    source, again, destination = etcd.join("a"), etcd.join("a"), etcd.join("b")
    stored = parked(etcd, source)
    changes = [
        claim(KEYS, destination, stored, etcd.wanted(DOMAINS[0])),
        unpark(KEYS, source, stored, request=etcd.fresh()),
        rejoin(KEYS, again, stored, request=etcd.fresh()),
    ]
    won = [etcd.apply(changes[place].txn).succeeded for place in order]
    assert won == [True, False, False]


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_of_claim_rejoin_and_two_takeovers_exactly_one_wins(order: tuple[int, ...]) -> None:
    etcd = Etcd()
    source, again, other, third = etcd.join("a"), etcd.join("a"), etcd.join("b"), etcd.join("c")
    stored = parked(etcd, source)
    etcd.end_lease_of(source)
    assert etcd.apply(etcd.obituary(source)).succeeded
    changes = [
        claim(KEYS, other, stored, etcd.wanted(DOMAINS[0])),
        rejoin(KEYS, again, stored, request=etcd.fresh()),
        takeover(etcd, other, etcd.wanted(DOMAINS[0], DISKS[0])),
        takeover(etcd, third, etcd.wanted(DOMAINS[1], DISKS[0])),
    ]
    sent = [changes[place] for place in order]
    won = [change is not None and etcd.apply(change.txn).succeeded for change in sent]
    assert won == [True, False, False, False]


@pytest.mark.parametrize("gone", [False, True], ids=["alive", "silent"])
def test_a_parked_domain_is_not_taken_by_evidence_of_a_proof_that_is_not_there(gone: bool) -> None:
    """What was read proposes; the transaction looks again."""
    etcd = Etcd()
    source, other = etcd.join("a"), etcd.join("b")
    parked(etcd, source)
    if gone:
        etcd.end_lease_of(source)
    wanted = etcd.wanted(DOMAINS[1], DISKS[0])
    obstacles = read_obstacles(etcd.apply(acquire(KEYS, other, wanted).txn))
    assert blockers(obstacles, etcd.evidence()) != ()
    proof = Obituary(source.ref, Proof.SILENCE, "", "", "")
    untrue = replace(etcd.evidence(), obituaries={source.ref: proof})
    assert blockers(obstacles, untrue) == ()
    change = take_over(KEYS, other, wanted, obstacles=obstacles, evidence=untrue, victim_request="r")
    assert not etcd.apply(change.txn).succeeded


def test_a_domain_that_is_not_parked_cannot_be_claimed_at_all() -> None:
    etcd = Etcd()
    source, other = etcd.join("a"), etcd.join("b")
    assert etcd.apply(acquire(KEYS, source, etcd.wanted(DOMAINS[0])).txn).succeeded
    with pytest.raises(ValueError, match="not parked"):
        claim(KEYS, other, etcd.domains()[DOMAINS[0].uuid], etcd.wanted(DOMAINS[0]))


def test_a_claim_brings_a_new_token_and_keeps_the_disks() -> None:
    etcd = Etcd()
    source, other = etcd.join("a"), etcd.join("b")
    stored = parked(etcd, source)
    assert etcd.apply(claim(KEYS, other, stored, etcd.wanted(DOMAINS[0])).txn).succeeded
    claimed = etcd.domains()[DOMAINS[0].uuid]
    assert claimed.token == claimed.mod_revision > stored.token
    assert claimed.record.resources == stored.record.resources


# --- the session's own transactions --------------------------------------------------------------------------------


def test_a_heartbeat_proves_a_living_session_and_changes_no_revision() -> None:
    etcd = Etcd()
    session = etcd.join("a")
    before = etcd.mvcc.revision
    assert etcd.apply(heartbeat(KEYS, session)).succeeded
    assert etcd.apply(heartbeat(KEYS, session.moved(99))).succeeded  # in whatever epoch
    assert etcd.mvcc.revision == before
    etcd.end_lease_of(session)
    assert not etcd.apply(heartbeat(KEYS, session)).succeeded


def test_a_session_is_confirmed_missing_only_when_it_is() -> None:
    etcd = Etcd()
    session = etcd.join("a")
    assert not etcd.apply(confirm_missing(KEYS, session.ref)).succeeded
    etcd.end_lease_of(session)
    assert etcd.apply(confirm_missing(KEYS, session.ref)).succeeded


def test_the_first_obituary_stays() -> None:
    etcd = Etcd()
    session = etcd.join("a")
    etcd.end_lease_of(session)
    first = Obituary(session.ref, Proof.OPERATOR, "alice", "off", "")
    assert etcd.apply(write_obituary(KEYS, first)).succeeded
    assert not etcd.apply(etcd.obituary(session)).succeeded
    assert etcd.evidence().obituaries == {session.ref: first}


def test_leaving_takes_the_key_away_and_leaves_the_proof_where_one_is_needed() -> None:
    etcd = Etcd()
    one, two = etcd.join("a"), etcd.join("a")
    assert etcd.apply(leave(KEYS, one, obituary=None)).succeeded
    assert etcd.apply(leave(KEYS, two, obituary=Obituary(two.ref, Proof.LEFT, "", "", ""))).succeeded
    assert not etcd.lives(one)
    assert not etcd.lives(two)
    assert set(etcd.evidence().obituaries) == {two.ref}
    assert not etcd.apply(leave(KEYS, two, obituary=None)).succeeded


def test_of_two_that_join_at_the_same_look_one_looks_again() -> None:
    etcd = Etcd()
    seen = etcd.mvcc.revision
    etcd.join("a")
    record = SessionRecord(SessionRef("a", "late"), Machine("b", "m"), SessionKind.RUN, "1", "", "")
    contract = etcd.mvcc.find(KeyRange(KEYS.contract))[0].mod_revision
    txn = join(KEYS, record, lease=1, contract=Contract(Timing()), contract_revision=contract, seen=seen)
    assert not etcd.apply(txn).succeeded
