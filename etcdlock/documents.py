"""Records as JSON documents, for `--json` and the agent's API; names as in docs/CLI.md, which a test holds to be true.

A field that has no value is null, never left out. Instants are ISO 8601, by the clock of the host that wrote them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from etcdlock.errors import EtcdlockError, HeldElsewhere
from etcdlock.model import Blocker, DomainId, Fencing, Handover, Obituary, Resource

if TYPE_CHECKING:
    from etcdlock.inquiry import Answer, Question
    from etcdlock.survey import Leftover, LockView, SessionView, Survey

Document = dict[str, Any]


def domain_document(domain: DomainId, /) -> Document:
    """A domain."""
    return {"uuid": str(domain.uuid), "name": domain.name}


def resource_document(resource: Resource, /) -> Document:
    """A resource."""
    return {"path": resource.path, "lockspace": resource.lockspace, "name": resource.name, "mode": resource.mode}


def blocker_document(blocker: Blocker, /) -> Document:
    """One reason for a refusal."""
    return {
        "domain": domain_document(blocker.domain),
        "resource": resource_document(blocker.resource) if blocker.resource else None,
        "host": blocker.owner.host if blocker.owner else None,
        "session": blocker.owner.session if blocker.owner else None,
        "state": blocker.state,
        "since": blocker.since,
        "token": blocker.token,
        "alive": blocker.alive,
        "proof": blocker.proof,
    }


def obituary_document(obituary: Obituary, /) -> Document:
    """The proof of a session's end."""
    return {
        "host": obituary.dead.host,
        "session": obituary.dead.session,
        "proof": obituary.proof,
        "by": obituary.by,
        "reason": obituary.reason,
        "when": obituary.when,
    }


def fencing_document(record: Fencing, /) -> Document:
    """The latest attempt to fence a host."""
    return {
        "host": record.host,
        "sessions": list(record.sessions),
        "state": record.state,
        "by": record.by,
        "reason": record.reason,
        "attempt": record.attempt,
        "detail": record.detail,
        "when": record.when,
    }


def session_document(view: SessionView, /) -> Document:
    """A session; what only its key tells is null where it has none."""
    record = view.record
    return {
        "host": view.ref.host,
        "session": view.ref.session,
        "standing": view.standing,
        "kind": record.kind if record else None,
        "version": record.version if record else None,
        "address": record.address if record else None,
        "boot": record.machine.boot if record else None,
        "since": record.since if record else None,
        "locks": view.locks,
        "obituary": obituary_document(view.obituary) if view.obituary else None,
    }


def lock_document(lock: LockView, /, *, needs: str) -> Document:
    """A domain's lock with its resources."""
    record = lock.stored.record
    return {
        "domain": domain_document(record.domain),
        "host": record.owner.host,
        "session": record.owner.session,
        "state": record.state,
        "standing": lock.standing,
        "stale": lock.stale,
        "since": record.since,
        "token": lock.stored.token,
        "pid": record.pid or None,
        "takeover": lock.takeover(needs=needs),
        "obituary": obituary_document(lock.obituary) if lock.obituary else None,
        "resources": [resource_document(resource) for resource in record.resources],
        "history": [handover_document(item) for item in record.history],
    }


def handover_document(item: Handover, /) -> Document:
    """Whom the owner has it from."""
    return {
        "domain": domain_document(item.domain),
        "host": item.owner.host,
        "session": item.owner.session,
        "token": item.token,
        "why": item.why,
        "when": item.when,
    }


def leftover_document(leftover: Leftover, /) -> Document:
    """A key that is not as it should be."""
    return {"kind": leftover.kind, "key": leftover.key, "text": leftover.text}


def survey_document(survey: Survey, /, *, cluster: str, needs: str) -> Document:
    """Everything, for `status`."""
    return {
        **sessions_document(survey, cluster=cluster),
        "locks": [lock_document(lock, needs=needs) for lock in survey.locks],
        "obituaries": [obituary_document(obituary) for obituary in survey.obituaries],
        "leftovers": [leftover_document(leftover) for leftover in survey.leftovers],
    }


def sessions_document(survey: Survey, /, *, cluster: str) -> Document:
    """The sessions, for `hosts`."""
    return {
        "cluster": cluster,
        "revision": survey.revision,
        "sessions": [session_document(view) for view in survey.sessions],
        "fencings": [fencing_document(item.record) for item in survey.fencings],
    }


def answer_document(question: Question, found: Answer, /, *, needs: str) -> Document:
    """Who stands in the way of what was asked about, for `inquire`."""
    return {
        "asked": str(question),
        "free": not found.blockers,
        "blockers": [blocker_document(blocker) for blocker in found.blockers],
        "locks": [lock_document(lock, needs=needs) for lock in found.locks],
        "unreadable": [leftover_document(leftover) for leftover in found.unreadable],
    }


def broken_document(target: str, obituaries: tuple[Obituary, ...], freed: tuple[LockView, ...], /) -> Document:
    """The proofs that now stand, and what may be taken over for them, for `break`."""
    return {
        "target": target,
        "obituaries": [obituary_document(obituary) for obituary in obituaries],
        "freed": [domain_document(lock.stored.record.domain) for lock in freed],
    }


def error_document(error: EtcdlockError, /) -> Document:
    """An error; `blockers` only where somebody else holds what was wanted."""
    document: Document = {"error": type(error).__name__, "message": str(error), "hint": error.hint}
    if isinstance(error, HeldElsewhere):
        document["blockers"] = [blocker_document(blocker) for blocker in error.blockers]
    return document
