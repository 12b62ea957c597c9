"""Whether the agent that answers on a socket is the one that is meant, for whoever goes through it.

It is if cluster and prefix are the same and at least one of etcd's endpoints is. To lock guests through it, host id,
contract and the numbers of processes must be the same, too. An agent that hangs is never taken for none.
"""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from etcdlock.errors import NoAgent, NotPermitted, Refused, Unreachable

if TYPE_CHECKING:
    from etcdlock.api.client import AgentClient
    from etcdlock.config import Settings
    from etcdlock.documents import Document

LOOK_SECONDS = 5.0
"""How long an agent may take to say who it is."""
AGENT_BEHIND_SECONDS = 5.0
"""How much longer we wait than the agent, whose own words say more than that time is up."""


class Purpose(StrEnum):
    """What the agent is wanted for."""

    LOOK = "look"
    BREAK = "break"
    RUN = "run"


def admitted(settings: Settings, path: str, purpose: Purpose, /) -> AgentClient:
    """Raises `NoAgent`, or `Refused` with the reason why this agent is not the one."""
    from etcdlock.api.client import AgentClient

    try:
        about = AgentClient(path, timeout_seconds=LOOK_SECONDS).agent(with_guests=False)
    except NoAgent:
        raise
    except Unreachable as error:
        hint = "start it anew ('systemctl restart etcdlock-agent'), or go without it: --via own"
        raise Unreachable(f"{error}; it was asked at {path}", hint=hint) from error
    if purpose is not Purpose.LOOK and about.get("rights") != "everything":
        raise NotPermitted(f"the agent at {path} lets this user only look")
    differing = _differing(settings, about, purpose)
    if differing:
        raise Refused(f"the agent at {path} has another {differing}")
    return AgentClient(path, timeout_seconds=settings.acquire_seconds + AGENT_BEHIND_SECONDS)


def _differing(settings: Settings, about: Document, purpose: Purpose, /) -> str:
    """The first thing that the agent means otherwise, with both; empty if it is the same in all that matters."""
    for name, mine in _meant(settings, purpose).items():
        if about.get(name) != mine:
            return f"{name.replace('_', ' ')}: {about.get(name)}, not {mine}"
    endpoints = about.get("endpoints") or []
    if not set(endpoints) & set(settings.endpoints):
        return f"etcd: {', '.join(endpoints)}, not {', '.join(settings.endpoints)}"
    return ""


def _meant(settings: Settings, purpose: Purpose, /) -> dict[str, Any]:
    from etcdlock.adapters.machine import pid_namespace
    from etcdlock.wiring import agent_host_id

    cluster = {"cluster": settings.cluster, "prefix": settings.prefix}
    if purpose is not Purpose.RUN:
        return cluster
    return {
        **cluster,
        "host": agent_host_id(settings, uid=os.geteuid()),
        "contract": settings.contract.as_mapping(),
        "pid_namespace": pid_namespace(),
    }
