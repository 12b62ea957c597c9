"""What etcd's and gRPC's errors mean: one table, pure.

A row is a definite answer of etcd, given before anything was applied. An answer that is in no row says nothing about a
request that was sent: it may have been applied, or may yet be. That holds for UNAVAILABLE, DEADLINE_EXCEEDED,
CANCELLED, UNKNOWN and INTERNAL, and for "database space exceeded", which etcd also says of transactions that it has
applied.

Rows need etcd's own words besides the code, because a proxy on the way can make up codes from HTTP statuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from grpc import StatusCode

from etcdlock.errors import AccessDenied, EtcdlockError, OutcomeUnknown, Rejected, Unreachable


class Meaning(StrEnum):
    """All but UNCLEAR are definite: the request was not applied and never will be."""

    REJECTED = "rejected"
    DENIED = "denied"
    STALE_TOKEN = "stale token"  # noqa: S105  # a word, no secret
    AUTH_DISABLED = "auth disabled"
    LEASE_UNKNOWN = "lease unknown"
    BUSY = "busy"
    UNCLEAR = "unclear"


_TABLE: Final[tuple[tuple[StatusCode, str, Meaning], ...]] = (
    (StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided", Meaning.REJECTED),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", Meaning.REJECTED),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", Meaning.REJECTED),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large", Meaning.REJECTED),
    (StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max", Meaning.REJECTED),
    (StatusCode.OUT_OF_RANGE, "etcdserver: too large lease TTL", Meaning.REJECTED),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: authentication failed", Meaning.DENIED),
    (StatusCode.FAILED_PRECONDITION, "etcdserver: user name not found", Meaning.DENIED),
    (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", Meaning.DENIED),
    (StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token", Meaning.STALE_TOKEN),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Meaning.STALE_TOKEN),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty", Meaning.STALE_TOKEN),  # sent without a token
    # Some members, and some of their services, give the same reasons in other words.
    (StatusCode.UNKNOWN, "auth: revision in header is old", Meaning.STALE_TOKEN),
    (StatusCode.UNKNOWN, "auth: invalid auth token", Meaning.STALE_TOKEN),
    (StatusCode.UNKNOWN, "auth: user name is empty", Meaning.STALE_TOKEN),
    (StatusCode.UNKNOWN, "auth: permission denied", Meaning.DENIED),
    (StatusCode.FAILED_PRECONDITION, "etcdserver: authentication is not enabled", Meaning.AUTH_DISABLED),
    (StatusCode.NOT_FOUND, "etcdserver: requested lease not found", Meaning.LEASE_UNKNOWN),
    (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Meaning.BUSY),
    (StatusCode.UNAVAILABLE, "etcdserver: rpc not supported for learner", Meaning.BUSY),  # another member may serve it
)

# What BoringSSL says when one side does not accept the other's certificate. "Unwrap failed" is all that is left of it
# when a TLS 1.3 server refuses after the client believes the handshake done.
_CERTIFICATE_WORDS: Final = ("CERTIFICATE_VERIFY_FAILED", "_CERTIFICATE", "UNKNOWN_CA", "Unwrap failed", "Hostname")

_HINTS: Final[dict[Meaning, str]] = {
    Meaning.DENIED: "Check as whom etcd knows you, by the certificate's name or by username: its role must allow it "
    "below the cluster's prefix, and a host's own allows sessions only under its host_id.",
    Meaning.STALE_TOKEN: "etcd wants a user: set username and password.",
    Meaning.LEASE_UNKNOWN: "The lease has expired or was revoked; join anew.",
}
CERTIFICATE_HINT: Final = "Check ca_file, cert_file and key_file, and the names in etcd's own certificate."


class LeaseUnknown(Rejected):
    """The request names a lease that has expired or was revoked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An error as gRPC hands it over, and who gave it."""

    endpoint: str
    code: StatusCode
    text: str

    def __str__(self) -> str:
        return f"{self.endpoint}: {self.text or 'no reason given'} ({self.code.name})"


def meaning_of(answer: Answer, /) -> Meaning:
    """The row of the table, or UNCLEAR."""
    for code, text, meaning in _TABLE:
        if answer.code is code and answer.text.startswith(text):
            return meaning
    return Meaning.UNCLEAR


def blames_certificate(answer: Answer, /) -> bool:
    """Whether a connection failed because a certificate was not accepted, as far as gRPC tells."""
    return answer.code is StatusCode.UNAVAILABLE and any(word in answer.text for word in _CERTIFICATE_WORDS)


def error_from(answer: Answer, /, *, sent: bool) -> EtcdlockError:
    """Our error for it. `sent` says that it answers a request that changes something and has left this host."""
    meaning = meaning_of(answer)
    match meaning:
        case Meaning.REJECTED:
            return Rejected(f"etcd rejected the request: {answer}")
        case Meaning.LEASE_UNKNOWN:
            return LeaseUnknown(f"etcd rejected the request: {answer}", hint=_HINTS[meaning])
        case Meaning.DENIED | Meaning.STALE_TOKEN:
            return AccessDenied(f"etcd denies access: {answer}", hint=_HINTS[meaning])
        case Meaning.UNCLEAR if sent:
            return OutcomeUnknown(f"It is not known whether etcd has done it: {answer}")
        case _:
            return Unreachable(f"etcd did not answer: {answer}")
