"""The words for what goes wrong between a client and its etcd, and for what happened: the history that judges read.

A transaction appears as `Sent`, `Applied` and `Answered`, joined by its number. What is missing tells the fault: never
applied, applied but not answered in time, or applied after the client had been told that nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from etcdlock.ports import Txn, TxnResult


class Link(StrEnum):
    """The way between one client and the database."""

    UP = "up"
    CUT = "cut"  # nothing arrives, in neither direction: every call runs into its time limit
    REFUSED = "refused"  # connections are refused: calls fail at once, and nothing was sent
    HUNG = "hung"  # what is sent is taken but not served before the link is mended


class Fault(StrEnum):
    """What becomes of one transaction; the client is told `OutcomeUnknown` each time."""

    REQUEST = "request lost"
    ANSWER = "answer lost"
    LATE = "applied late"


class Outcome(StrEnum):
    """What a client was told of its transaction."""

    DONE = "done"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"


class LeaseEnd(StrEnum):
    """Why a lease ended."""

    EXPIRED = "expired"
    REVOKED = "revoked"
    REVOKED_WRONGLY = "revoked wrongly"


@dataclass(frozen=True, slots=True)
class Sent:
    """A client sent a transaction."""

    instant: float
    client: str
    number: int
    txn: Txn


@dataclass(frozen=True, slots=True)
class Applied:
    """The database took a transaction in; `result` is None where it refused it."""

    instant: float
    client: str
    number: int
    txn: Txn
    result: TxnResult | None


@dataclass(frozen=True, slots=True)
class Answered:
    """A client was told the outcome. Missing where the caller was cancelled."""

    instant: float
    client: str
    number: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """A lease ended, and its keys with it; `revision` is the database's after that."""

    instant: float
    lease: int
    why: LeaseEnd
    revision: int


Entry = Sent | Applied | Answered | LeaseEnded


def any_txn(_txn: Txn) -> bool:
    """A predicate for faults that take whatever comes next."""
    return True


@dataclass(frozen=True, slots=True)
class Loss:
    """A scripted fault of the next `count` transactions that `when` picks."""

    fault: Fault
    count: int
    when: Callable[[Txn], bool]
    delay_seconds: float
