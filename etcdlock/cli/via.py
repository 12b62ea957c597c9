"""Whether a command goes through this host's agent, or its own way to etcd.

It goes through the agent where one answers, lets the caller do what is wanted, and means the same cluster: name,
prefix, and at least one endpoint of etcd in common. To run a guest, host id, contract and the numbers of processes
must be the same, too.

Guaranteed: an agent that hangs is never taken for one that is not there. Whichever way is gone, a guest is kept from
what another holds: locks exclude each other whoever takes them.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etcdlock.cli.manpage import COMMON_PANEL
from etcdlock.errors import EtcdlockError, NoAgent, NotPermitted, Refused, Unreachable

if TYPE_CHECKING:
    from etcdlock.api.client import AgentClient
    from etcdlock.config import Settings
    from etcdlock.documents import Document

LOOK_SECONDS = 5.0
"""How long an agent may take to say who it is."""
AGENT_BEHIND_SECONDS = 5.0
"""How much longer we wait than the agent, whose own words say more than that time is up."""


class Via(StrEnum):
    """What the setting `via` may be."""

    AUTO = "auto"
    AGENT = "agent"
    OWN = "own"


class Purpose(StrEnum):
    """What the agent is wanted for."""

    LOOK = "look"
    BREAK = "break"
    RUN = "run"


ViaOption = Annotated[
    Via | None,
    typer.Option(
        "--via",
        metavar="auto|agent|own",
        help="go through this host's agent if it is up, through it alone, or without it [auto]",
        rich_help_panel=COMMON_PANEL,
        show_default=False,
    ),
]


def agent_for(settings: Settings, purpose: Purpose, /) -> AgentClient | None:
    """The agent to go through; None to go one's own way.

    Raises `Unreachable` for an agent that hangs, and with `via = "agent"` whatever is in its way.
    """
    if settings.via == "own":
        return None
    refusals: list[EtcdlockError] = []
    for path in settings.api_paths if purpose is Purpose.LOOK else (settings.api_path,):
        try:
            return _admitted(settings, path, purpose)
        except (NoAgent, Refused) as refusal:
            refusals.append(refusal)
    telling = next((refusal for refusal in refusals if not isinstance(refusal, NoAgent)), refusals[0])
    if settings.via == "agent":
        raise telling
    if purpose is Purpose.RUN and not isinstance(telling, NoAgent):
        print(f"etcdlock: not under the agent's session but one of its own: {telling}", file=sys.stderr)
    return None


def _admitted(settings: Settings, path: str, purpose: Purpose, /) -> AgentClient:
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
