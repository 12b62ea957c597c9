"""Records as JSON documents for `--json`; names as in docs/CLI.md."""

from __future__ import annotations

from typing import Any

from etcdlock.model import Blocker, Resource


def resource_document(resource: Resource, /) -> dict[str, Any]:
    """A resource."""
    return {"path": resource.path, "lockspace": resource.lockspace, "name": resource.name, "mode": resource.mode}


def blocker_document(blocker: Blocker, /) -> dict[str, Any]:
    """One reason for a refusal."""
    return {
        "domain": {"uuid": str(blocker.domain.uuid), "name": blocker.domain.name},
        "resource": resource_document(blocker.resource) if blocker.resource else None,
        "host": blocker.owner.host if blocker.owner else None,
        "session": blocker.owner.session if blocker.owner else None,
        "state": blocker.state,
        "since": blocker.since,
        "token": blocker.token,
        "alive": blocker.alive,
        "proof": blocker.proof,
    }
