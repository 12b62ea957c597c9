"""Every error of etcdlock as an answer over HTTP, and back: one table for the server and its clients.

Guaranteed: what is not known to have been refused is never answered as if it were. A status of 4xx says that nothing
was changed; 502, that etcd itself refused it or holds what cannot be read; 503, that nothing was done for now; 500 and
504, that it is not known.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from uuid import UUID

from etcdlock import errors
from etcdlock.documents import Document, error_document
from etcdlock.errors import EtcdlockError, HeldElsewhere
from etcdlock.model import Blocker, DomainId, LockState, Mode, Proof, Resource, SessionRef


class Outcome(StrEnum):
    """What the caller now knows."""

    INVALID = "invalid"
    """Nothing was attempted: mend the request."""
    REFUSED = "refused"
    """A definite no: nothing was changed."""
    UNREADABLE = "unreadable"
    """A record in etcd cannot be read: nothing was changed."""
    UNREACHABLE = "unreachable"
    """No etcd answered: nothing was done. Try again."""
    LOST = "lost"
    """The session cannot be proven now: nothing may run by it. Try again."""
    UNKNOWN = "unknown"
    """It may have been done, or may yet be. Ask again: what was done is then a success."""


TABLE: tuple[tuple[type[EtcdlockError], int, Outcome], ...] = (
    (errors.InvalidInput, 422, Outcome.INVALID),
    (errors.NotPermitted, 403, Outcome.REFUSED),
    (errors.NotLocked, 404, Outcome.REFUSED),
    (errors.NoSuchGuest, 404, Outcome.REFUSED),
    (errors.AccessDenied, 502, Outcome.REFUSED),
    (errors.Rejected, 502, Outcome.REFUSED),
    (errors.UnsafeEtcd, 502, Outcome.REFUSED),
    (errors.UnsteadyClock, 503, Outcome.REFUSED),
    (errors.NotReady, 503, Outcome.REFUSED),
    (errors.Refused, 409, Outcome.REFUSED),
    (errors.CorruptRecord, 502, Outcome.UNREADABLE),
    (errors.Unreachable, 503, Outcome.UNREACHABLE),
    (errors.OutcomeUnknown, 504, Outcome.UNKNOWN),
    (errors.SessionLost, 503, Outcome.LOST),
    (EtcdlockError, 500, Outcome.UNKNOWN),
)
"""The first that fits."""

_BY_OUTCOME: dict[str, type[EtcdlockError]] = {
    Outcome.INVALID: errors.InvalidInput,
    Outcome.REFUSED: errors.Refused,
    Outcome.UNREACHABLE: errors.Unreachable,
    Outcome.LOST: errors.SessionLost,
    Outcome.UNKNOWN: errors.OutcomeUnknown,
}


def answer_to(error: EtcdlockError, /) -> tuple[int, Document]:
    """Status and body."""
    status, outcome = next((status, outcome) for kind, status, outcome in TABLE if isinstance(error, kind))
    extra: Document = {"blockers": [], "outcome": outcome}
    if isinstance(error, HeldElsewhere):
        extra["revision"] = error.revision
    elif isinstance(error, errors.CorruptRecord):
        extra["key"] = error.key
    return status, {**extra, **error_document(error)}


def error_in(body: Document, /) -> EtcdlockError:
    """The error that a body tells of; of a class that is not known here, the nearest one that says as much."""
    kind = getattr(errors, str(body.get("error")), None)
    if not (isinstance(kind, type) and issubclass(kind, EtcdlockError)) or kind is EtcdlockError:
        kind = _BY_OUTCOME.get(str(body.get("outcome")), errors.OutcomeUnknown)
    message, hint = str(body.get("message")), str(body.get("hint") or "")
    if issubclass(kind, HeldElsewhere):
        found = tuple(_blocker(item) for item in body.get("blockers", ()))
        return kind(message, blockers=found, revision=int(body.get("revision") or 0), hint=hint)
    if issubclass(kind, errors.CorruptRecord):
        return kind(message, key=str(body.get("key")), hint=hint)
    if issubclass(kind, errors.GuestNotStarted):
        return kind(message, missing=False, hint=hint)
    return kind(message, hint=hint)


def _blocker(item: Document, /) -> Blocker:
    resource, host = item["resource"], item["host"]
    return Blocker(
        domain=DomainId(UUID(item["domain"]["uuid"]), item["domain"]["name"]),
        resource=None if resource is None else _resource(resource),
        owner=None if host is None else SessionRef(host, item["session"]),
        state=None if item["state"] is None else LockState(item["state"]),
        since=item["since"],
        token=item["token"],
        alive=item["alive"],
        proof=None if item["proof"] is None else Proof(item["proof"]),
    )


def _resource(item: dict[str, Any], /) -> Resource:
    return Resource(item["lockspace"], item["name"], Mode(item["mode"]), item["path"])
