"""Any sequence of transitions, with stale records and with transactions lost or late, keeps what they promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from etcdlock.keyspace import Keyspace
from etcdlock.model import (
    DomainId,
    LockState,
    Machine,
    Mode,
    Obituary,
    Proof,
    Resource,
    SessionKind,
    SessionRecord,
    SessionRef,
    StoredDomain,
)
from etcdlock.ports import KeyRange, Put, Txn, TxnResult
from etcdlock.records import decode_domain, decode_obituary, decode_resource
from etcdlock.session import Contract, Session
from etcdlock.takeover import Evidence, blockers, read_obstacles, take_over
from etcdlock.testing.mvcc import Mvcc
from etcdlock.timing import Timing
from etcdlock.transitions import (
    Transition,
    Wanted,
    acquire,
    add_resource,
    barrier,
    claim,
    confirm_missing,
    heartbeat,
    join,
    leave,
    park,
    rejoin,
    release,
    remove_resource,
    unpark,
    write_obituary,
)

KEYS = Keyspace()
HOSTS = ("a", "b")
DISKS = tuple(
    Resource("path", name, mode, name) for name in ("x", "y") for mode in (Mode.EXCLUSIVE, Mode.SHARED)
)
DISK_LISTS = st.lists(st.sampled_from(DISKS), max_size=2, unique_by=lambda disk: disk.name)
DOMAINS = tuple(DomainId(UUID(int=number), f"vm{number}") for number in (1, 2, 3))


class Etcd:
    """The keys alone, and what is written down about them. Time plays no part."""

    def __init__(self) -> None:
        self.mvcc = Mvcc()
        self._requests = 0

    def apply(self, txn: Txn) -> TxnResult:
        return self.mvcc.apply([txn], lease_lives=lambda _lease: True)[0]

    def fresh(self) -> str:
        self._requests += 1
        return f"r{self._requests}"

    def join(self, host: str) -> Session:
        record = SessionRecord(
            SessionRef(host, self.fresh()), Machine(f"boot {host}", host), SessionKind.RUN, "1", "", ""
        )
        contract = self.mvcc.find(KeyRange(KEYS.contract))
        result = self.apply(
            join(
                KEYS,
                record,
                lease=1,
                contract=Contract(Timing()),
                contract_revision=contract[0].mod_revision if contract else 0,
                seen=self.mvcc.revision,
            )
        )
        assert result.succeeded
        return Session(record, 1, result.revision, result.revision, 0.0)

    def end_lease_of(self, session: Session) -> None:
        self.mvcc.drop([KEYS.session(session.ref)] if self.lives(session) else [])

    def lives(self, session: Session) -> bool:
        return bool(self.mvcc.find(KeyRange(KEYS.session(session.ref))))

    def domains(self) -> dict[UUID, StoredDomain]:
        found = [decode_domain(stored) for stored in self.mvcc.find(KEYS.domains)]
        return {stored.record.domain.uuid: stored for stored in found}

    def wanted(self, who: DomainId, *resources: Resource) -> Wanted:
        return Wanted(who, resources, self.fresh(), "")

    def evidence(self) -> Evidence:
        found = [decode_obituary(stored) for stored in self.mvcc.find(KEYS.obituaries)]
        stored = self.domains()
        living = {item.record.owner for item in stored.values() if self.mvcc.find(key_of(item.record.owner))}
        return Evidence(stored, frozenset(living), {obituary.dead: obituary for obituary in found})

    def obituary(self, session: Session) -> Txn:
        return write_obituary(KEYS, Obituary(session.ref, Proof.SILENCE, "", "", ""))


def key_of(ref: SessionRef) -> KeyRange:
    return KeyRange(KEYS.session(ref))


def takeover(etcd: Etcd, session: Session, wanted: Wanted) -> Transition | None:
    """What the ledger would send after a refused acquire; None if it would refuse."""
    refused = etcd.apply(acquire(KEYS, session, wanted).txn)
    if refused.succeeded:
        return None
    obstacles, evidence = read_obstacles(refused), etcd.evidence()
    if blockers(obstacles, evidence):
        return None
    return take_over(KEYS, session, wanted, obstacles=obstacles, evidence=evidence, victim_request=etcd.fresh())


Rewrite = Callable[[Etcd, Session, StoredDomain], Transition]

REWRITES: dict[str, Rewrite] = {
    "park": lambda etcd, session, stored: park(KEYS, session, stored, request=etcd.fresh()),
    "unpark": lambda etcd, session, stored: unpark(KEYS, session, stored, request=etcd.fresh()),
    "rejoin": lambda etcd, session, stored: rejoin(KEYS, session, stored, request=etcd.fresh()),
    "release": lambda _etcd, session, stored: release(KEYS, session, stored),
    "claim": lambda etcd, session, stored: claim(KEYS, session, stored, etcd.wanted(stored.record.domain)),
}
Flight = tuple[Session, Txn]
"""A transaction that is under way."""

BY_THE_OWNER_ALONE = {"park", "unpark", "release"}


class Transitions(RuleBasedStateMachine):
    """Sessions act on records as they were at any earlier time; what they send is applied, lost or late."""

    sessions: Bundle[Session] = Bundle("sessions")
    records: Bundle[StoredDomain] = Bundle("records")
    flights: Bundle[Flight] = Bundle("flights")

    def __init__(self) -> None:
        super().__init__()
        self.etcd = Etcd()
        self.tokens: dict[object, tuple[object, int]] = {}
        self.settled: dict[SessionRef, int] = {}

    def send(self, session: Session, txn: Txn, late: bool) -> MultipleResults[Flight]:
        if late:
            return multiple((session, txn))
        self.apply(session, txn)
        return multiple()

    def apply(self, session: Session, txn: Txn) -> TxnResult:
        lived = self.etcd.lives(session)
        result = self.etcd.apply(txn)
        writes = result.succeeded and any(isinstance(op, Put) for op in txn.success)
        assert lived or not writes, "a session that is gone changed something"
        old = session.epoch < self.settled.get(session.ref, 0)
        assert not (writes and old), "something of an earlier epoch committed"
        return result

    @rule(target=sessions, host=st.sampled_from(HOSTS))
    def join(self, host: str) -> Session:
        return self.etcd.join(host)

    @rule(session=sessions)
    def lose_the_session(self, session: Session) -> None:
        self.etcd.end_lease_of(session)

    @rule(session=sessions)
    def write_obituary(self, session: Session) -> None:
        lived = self.etcd.lives(session)
        result = self.etcd.apply(self.etcd.obituary(session))
        assert not (lived and result.succeeded)

    @rule(target=sessions, session=sessions, who=st.sampled_from(DOMAINS))
    def put_a_barrier(self, session: Session, who: DomainId) -> Session:
        """Whatever of the session is still under way can never commit after it."""
        result = self.etcd.apply(barrier(KEYS, session, uuid=who.uuid))
        if result.succeeded:
            self.settled[session.ref] = result.revision
            return session.moved(result.revision)
        return session

    @rule(target=flights, session=sessions, who=st.sampled_from(DOMAINS), disks=DISK_LISTS, late=st.booleans())
    def take(self, session: Session, who: DomainId, disks: list[Resource], late: bool) -> MultipleResults[Flight]:
        return self.send(session, acquire(KEYS, session, self.etcd.wanted(who, *disks)).txn, late)

    @rule(target=flights, session=sessions, who=st.sampled_from(DOMAINS), disks=DISK_LISTS, late=st.booleans())
    def take_over(self, session: Session, who: DomainId, disks: list[Resource], late: bool) -> MultipleResults[Flight]:
        if not self.etcd.lives(session):
            return multiple()
        change = takeover(self.etcd, session, self.etcd.wanted(who, *disks))
        if change is None:
            return multiple()
        return self.send(session, change.txn, late)

    @rule(target=records)
    def look(self) -> MultipleResults[StoredDomain]:
        return multiple(*self.etcd.domains().values())

    @rule(target=flights, session=sessions, stored=records, kind=st.sampled_from(sorted(REWRITES)), late=st.booleans())
    def rewrite(self, session: Session, stored: StoredDomain, kind: str, late: bool) -> MultipleResults[Flight]:
        if kind == "claim" and stored.record.state is not LockState.PARKED:
            return multiple()
        if kind in BY_THE_OWNER_ALONE and stored.record.owner != session.ref:
            return multiple()
        if kind == "rejoin" and stored.record.owner.host != session.ref.host:
            return multiple()
        return self.send(session, REWRITES[kind](self.etcd, session, stored).txn, late)

    @rule(target=flights, session=sessions, stored=records, disk=st.sampled_from(DISKS), late=st.booleans())
    def grow_or_shrink(
        self, session: Session, stored: StoredDomain, disk: Resource, late: bool
    ) -> MultipleResults[Flight]:
        if stored.record.owner != session.ref:
            return multiple()
        if disk in stored.record.resources:
            change = remove_resource(KEYS, session, stored, disk, request=self.etcd.fresh())
        elif any(listed.name == disk.name for listed in stored.record.resources):
            return multiple()
        else:
            change = add_resource(KEYS, session, stored, disk, request=self.etcd.fresh())
        return self.send(session, change.txn, late)

    @rule(flight=consumes(flights))
    def arrive_late(self, flight: Flight) -> None:
        self.apply(*flight)

    @invariant()
    def a_resource_names_a_domain_if_and_only_if_its_record_lists_it(self) -> None:
        listed = {
            KEYS.resource(resource, uuid=uuid)
            for uuid, stored in self.etcd.domains().items()
            for resource in stored.record.resources
        }
        assert {stored.key for stored in self.etcd.mvcc.find(KEYS.resources)} == listed
        for found in self.etcd.mvcc.find(KEYS.resources):
            record = decode_resource(found).record
            assert found.key == KEYS.resource(record.resource, uuid=record.domain.uuid)

    @invariant()
    def an_exclusive_holder_is_alone(self) -> None:
        for disk in DISKS:
            holders = self.etcd.mvcc.find(KEYS.holders(disk))
            assert len(holders) == 1 or not any(stored.key.endswith("/exclusive") for stored in holders)

    @invariant()
    def tokens_never_shrink_and_grow_with_each_change_of_owner(self) -> None:
        domains = self.etcd.domains()
        for uuid, stored in domains.items():
            self._check_token(uuid, stored.record.owner.host, stored.token)
        for found in self.etcd.mvcc.find(KEYS.resources):
            record = decode_resource(found).record
            owner = domains[record.domain.uuid]
            if record.resource.mode is Mode.EXCLUSIVE:
                token = max(owner.token, found.mod_revision)
                self._check_token(found.key, (record.domain.uuid, owner.record.owner.host), token)

    def _check_token(self, what: object, owner: object, token: int) -> None:
        before, least = self.tokens.get(what, (None, 0))
        assert token >= least
        assert owner == before or token > least
        self.tokens[what] = (owner, token)


TestTransitions = Transitions.TestCase
TestTransitions.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


# --- races --------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("proven", [True, False], ids=["with an obituary", "parked and its session gone"])
@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_of_claim_rejoin_and_two_takeovers_exactly_one_wins(order: tuple[int, ...], proven: bool) -> None:
    etcd = Etcd()
    source, again, other, third = etcd.join("a"), etcd.join("a"), etcd.join("b"), etcd.join("c")
    stored = parked(etcd, source)
    etcd.end_lease_of(source)
    if proven:
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


def test_a_parked_domain_whose_session_came_to_be_seen_alive_is_not_taken() -> None:
    """The evidence was read while the key was missing; the transaction looks again."""
    etcd = Etcd()
    source, other = etcd.join("a"), etcd.join("b")
    parked(etcd, source)
    wanted = etcd.wanted(DOMAINS[1], DISKS[0])
    obstacles = read_obstacles(etcd.apply(acquire(KEYS, other, wanted).txn))
    stale = replace(etcd.evidence(), living=frozenset())
    assert blockers(obstacles, stale) == ()
    change = take_over(KEYS, other, wanted, obstacles=obstacles, evidence=stale, victim_request="r")
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
