"""The leases of an etcd: who was granted what, until when. It knows no keys, and `now` is handed in.

As etcd does it, a lease runs out after its TTL but is only ended by a scan some time later; who renews it in between is
told, once it has ended, that there is no such lease.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from etcdlock.ports import Lease

FIRST_LEASE_ID = 0x7000_0000_0000_0001


@dataclass(frozen=True, slots=True)
class Term:
    """How long a lease lives: renewable until `runs_out_at`, ended at `ends_at`."""

    ttl_seconds: int
    runs_out_at: float
    ends_at: float


@dataclass(frozen=True, slots=True)
class Renewal:
    """Answer to a keepalive: the TTL, 0 for no such lease, and how long etcd keeps the answer back."""

    ttl_seconds: int
    after_seconds: float = 0.0


class LeaseTable:
    """All leases. `expiry_delay_seconds` tells how long after its TTL the scan finds a lease: etcd takes up to 1 s."""

    def __init__(self, *, min_ttl_seconds: int, expiry_delay_seconds: Callable[[], float]) -> None:
        self._min_ttl_seconds = min_ttl_seconds
        self._expiry_delay_seconds = expiry_delay_seconds
        self._terms: dict[int, Term] = {}
        self._next_id = FIRST_LEASE_ID

    def grant(self, ttl_seconds: int, *, now: float) -> Lease:
        lease = Lease(self._next_id, max(ttl_seconds, self._min_ttl_seconds))
        self._next_id += 1
        self._terms[lease.id] = self._term(lease.ttl_seconds, now=now)
        return lease

    def grant_at_least(self, ttl_seconds: int) -> None:
        """From now on, as an etcd with a long election timeout does."""
        self._min_ttl_seconds = ttl_seconds

    def lives(self, lease: int) -> bool:
        return lease in self._terms

    def ttl_seconds(self, lease: int) -> int:
        """As granted; 0 if there is no such lease."""
        term = self._terms.get(lease)
        return term.ttl_seconds if term else 0

    def ends_at(self, lease: int) -> float | None:
        """When the scan will end it, unless it is renewed; None if there is no such lease."""
        term = self._terms.get(lease)
        return term.ends_at if term else None

    def renew(self, lease: int, *, now: float) -> Renewal:
        term = self._terms.get(lease)
        if term is None:
            return Renewal(0)
        if now >= term.runs_out_at:
            return Renewal(0, after_seconds=max(0.0, term.ends_at - now))
        self._terms[lease] = self._term(term.ttl_seconds, now=now)
        return Renewal(term.ttl_seconds)

    def restart_all(self, *, now: float) -> None:
        """Every lease has its full TTL before it again, as after an election."""
        self._terms = {lease: self._term(term.ttl_seconds, now=now) for lease, term in self._terms.items()}

    def revive(self, lease: int, *, ttl_seconds: int, now: float) -> None:
        """It has its full TTL before it, whether it had ended or not, as after a restore."""
        self._terms[lease] = self._term(ttl_seconds, now=now)

    def end(self, lease: int) -> bool:
        """True if there was such a lease."""
        return self._terms.pop(lease, None) is not None

    def _term(self, ttl_seconds: int, *, now: float) -> Term:
        runs_out_at = now + ttl_seconds
        return Term(ttl_seconds, runs_out_at, runs_out_at + self._expiry_delay_seconds())
