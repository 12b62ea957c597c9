"""Any sequence of transitions, with stale records and with transactions lost or late, keeps what they promise."""

from __future__ import annotations

from collections.abc import Callable

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

from etcdlock.model import DomainId, LockState, Mode, Resource, SessionRef, StoredDomain
from etcdlock.ports import Put, Txn, TxnResult
from etcdlock.records import decode_resource
from etcdlock.session import Session
from etcdlock.transitions import (
    Transition,
    acquire,
    add_resource,
    barrier,
    claim,
    park,
    rejoin,
    release,
    remove_resource,
    unpark,
)
from tests.unit.bare_etcd import DISKS, DOMAINS, KEYS, Etcd, takeover

HOSTS = ("a", "b")
DISK_LISTS = st.lists(st.sampled_from(DISKS), max_size=2, unique_by=lambda disk: disk.name)

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
