"""What agents of hosts add to the transitions: resuming a session, handing a claim back, one more disk of the dead."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etcdlock.model import LockState, SessionKind, SessionRef, StoredDomain
from etcdlock.ports import Delete, Put
from etcdlock.records import decode_resource
from etcdlock.session import Session, is_of, session_id
from etcdlock.takeover import Obstacles, blockers, extend
from etcdlock.transitions import (
    Transition,
    acquire,
    add_resource,
    all_domains,
    claim,
    hand_back,
    park,
    rejoin,
    resume,
    unpark,
)
from tests.unit.bare_etcd import DISKS, DOMAINS, KEYS, Etcd

VM, OTHER = DOMAINS[:2]
X, Y = DISKS[0], DISKS[2]


def test_a_session_id_says_which_program_keeps_it() -> None:
    ref = SessionRef("a", session_id(SessionKind.AGENT, "0f"))
    assert ref.session == "agent-0f"
    assert [kind for kind in SessionKind if is_of(kind, ref)] == [SessionKind.AGENT]
    assert not is_of(SessionKind.RUN, SessionRef("a", "runner"))


def test_resuming_a_session_closes_it_to_what_was_sent_before_and_keeps_its_lease() -> None:
    etcd = Etcd()
    session = etcd.join("a")
    under_way = acquire(KEYS, session, etcd.wanted(VM, X))
    result = etcd.apply(resume(KEYS, session))
    assert result.succeeded
    assert not etcd.apply(under_way.txn).succeeded
    resumed = session.moved(result.revision)
    assert etcd.apply(acquire(KEYS, resumed, etcd.wanted(VM, X)).txn).succeeded
    (put,) = (op for op in resume(KEYS, session).success if isinstance(op, Put))
    assert put.lease == session.lease


def test_a_session_whose_key_is_gone_is_not_resumed() -> None:
    etcd = Etcd()
    session = etcd.join("a")
    etcd.end_lease_of(session)
    assert not etcd.apply(resume(KEYS, session)).succeeded


def test_all_domains_are_read_through_raft_without_changing_anything() -> None:
    etcd = Etcd()
    etcd.apply(acquire(KEYS, etcd.join("a"), etcd.wanted(VM, X)).txn)
    revision = etcd.mvcc.revision
    result = etcd.apply(all_domains(KEYS))
    assert [found.key for found in result.replies[1]] == [KEYS.domain(VM.uuid)]
    assert etcd.mvcc.revision == revision
    assert any(isinstance(op, Delete) for op in all_domains(KEYS).success)


def claimed(etcd: Etcd, source: Session, destination: Session) -> tuple[StoredDomain, Transition]:
    """A domain parked by the source, and the claim of it, applied."""
    assert etcd.apply(acquire(KEYS, source, etcd.wanted(VM, X)).txn).succeeded
    assert etcd.apply(park(KEYS, source, etcd.domains()[VM.uuid], request=etcd.fresh()).txn).succeeded
    parked = etcd.domains()[VM.uuid]
    change = claim(KEYS, destination, parked, etcd.wanted(VM, X))
    assert change.source == parked
    assert etcd.apply(change.txn).succeeded
    return parked, change


def test_a_claim_handed_back_leaves_everything_as_it_was_but_the_request() -> None:
    etcd = Etcd()
    source, destination = etcd.join("a"), etcd.join("b")
    before, _ = claimed(etcd, source, destination)
    mine = etcd.domains()[VM.uuid]
    assert etcd.apply(add_resource(KEYS, destination, mine, Y, request=etcd.fresh()).txn).succeeded
    back = hand_back(KEYS, destination, etcd.domains()[VM.uuid], source=before, request="back")
    assert etcd.apply(back.txn).succeeded
    after = etcd.domains()[VM.uuid]
    assert after.record == replace(before.record, request="back", token=before.token)
    assert (after.record.state, after.token) == (LockState.PARKED, before.token)
    assert etcd.apply(acquire(KEYS, destination, etcd.wanted(OTHER, Y)).txn).succeeded
    assert etcd.apply(unpark(KEYS, source, after, request=etcd.fresh()).txn).succeeded


@pytest.mark.parametrize("stale", ["domain", "session"])
def test_a_claim_is_handed_back_only_by_its_own_session_and_only_while_nothing_has_changed(stale: str) -> None:
    etcd = Etcd()
    source, destination = etcd.join("a"), etcd.join("b")
    before, _ = claimed(etcd, source, destination)
    mine = etcd.domains()[VM.uuid]
    if stale == "domain":
        assert etcd.apply(park(KEYS, destination, mine, request=etcd.fresh()).txn).succeeded
    else:
        etcd.end_lease_of(destination)
    assert not etcd.apply(hand_back(KEYS, destination, mine, source=before, request="back").txn).succeeded


def extended(etcd: Etcd, mine: Session, stored: StoredDomain) -> Transition:
    """One more disk, by what etcd says now."""
    refused = etcd.apply(add_resource(KEYS, mine, stored, X, request=etcd.fresh()).txn)
    assert not refused.succeeded
    rivals = tuple(decode_resource(found) for found in refused.replies[2])
    obstacles, evidence = Obstacles(refused.revision, mine.epoch, None, rivals), etcd.evidence()
    assert blockers(obstacles, evidence) == ()
    return extend(
        KEYS, mine, stored, X, obstacles=obstacles, evidence=evidence, request=etcd.fresh(), victim_request=etcd.fresh()
    )


Scene = tuple[Etcd, Session, Session, StoredDomain]


def beside_the_dead() -> Scene:
    etcd = Etcd()
    dead, mine = etcd.join("a"), etcd.join("b")
    assert etcd.apply(acquire(KEYS, dead, etcd.wanted(OTHER, X)).txn).succeeded
    assert etcd.apply(acquire(KEYS, mine, etcd.wanted(VM, Y)).txn).succeeded
    etcd.end_lease_of(dead)
    assert etcd.apply(etcd.obituary(dead)).succeeded
    return etcd, dead, mine, etcd.domains()[VM.uuid]


def test_one_more_disk_is_taken_from_the_dead_and_both_records_say_so() -> None:
    etcd, _, mine, stored = beside_the_dead()
    assert etcd.apply(extended(etcd, mine, stored).txn).succeeded
    now = etcd.domains()
    assert now[VM.uuid].record.resources == (Y, X)
    assert now[VM.uuid].token == stored.token
    assert now[OTHER.uuid].record.resources == ()


def test_one_more_disk_is_not_taken_once_anything_has_changed_since_the_look() -> None:
    def rewritten_by_us(etcd: Etcd, mine: Session, stored: StoredDomain) -> None:
        assert etcd.apply(park(KEYS, mine, stored, request=etcd.fresh()).txn).succeeded

    def rejoined_by_the_dead(etcd: Etcd, _mine: Session, _stored: StoredDomain) -> None:
        again = etcd.join("a")
        stored = etcd.domains()[OTHER.uuid]
        assert etcd.apply(rejoin(KEYS, again, stored, request=etcd.fresh()).txn).succeeded

    def we_are_gone(etcd: Etcd, mine: Session, _stored: StoredDomain) -> None:
        etcd.end_lease_of(mine)

    for change in (rewritten_by_us, rejoined_by_the_dead, we_are_gone):
        etcd, _, mine, stored = beside_the_dead()
        prepared = extended(etcd, mine, stored)
        change(etcd, mine, stored)
        assert not etcd.apply(prepared.txn).succeeded


def test_without_a_proof_there_is_nothing_to_extend_with() -> None:
    etcd, _, mine, stored = beside_the_dead()
    refused = etcd.apply(add_resource(KEYS, mine, stored, X, request=etcd.fresh()).txn)
    unproven = replace(etcd.evidence(), obituaries={})
    rivals = tuple(decode_resource(found) for found in refused.replies[2])
    found = blockers(Obstacles(refused.revision, mine.epoch, None, rivals), unproven)
    assert [blocker.resource for blocker in found] == [X]
