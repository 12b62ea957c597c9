"""etcd's keys alone, without time or clients, and what tests of the transitions do with them."""

from __future__ import annotations

from uuid import UUID

from etcdlock.keyspace import Keyspace
from etcdlock.model import (
    DomainId,
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
from etcdlock.ports import KeyRange, Txn, TxnResult
from etcdlock.records import decode_domain, decode_obituary
from etcdlock.session import Contract, Session
from etcdlock.takeover import Evidence, blockers, read_obstacles, take_over
from etcdlock.testing.mvcc import Mvcc
from etcdlock.timing import Timing
from etcdlock.transitions import Transition, Wanted, acquire, join, write_obituary

KEYS = Keyspace()
DISKS = tuple(
    Resource("path", name, mode, name) for name in ("x", "y") for mode in (Mode.EXCLUSIVE, Mode.SHARED)
)
DOMAINS = tuple(DomainId(UUID(int=number), f"vm{number}") for number in (1, 2, 3))


class Etcd:
    """The keys, and what is written down about them."""

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
