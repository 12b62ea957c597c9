"""Whether a command goes through this host's agent, or its own way to etcd.

It goes through the agent where one answers, lets the caller do what is wanted, and means the same cluster: name,
prefix, and at least one endpoint of etcd in common. To run a guest, host id, contract and the numbers of processes
must be the same, too.

Guaranteed: an agent that hangs is never taken for one that is not there. Whichever way is gone, a guest is kept from
what another holds: locks exclude each other whoever takes them.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from etcdlock.cli.manpage import COMMON_PANEL
from etcdlock.errors import EtcdlockError, NoAgent, Refused
from etcdlock.meeting import Purpose, admitted

if TYPE_CHECKING:
    from etcdlock.api.client import AgentClient
    from etcdlock.config import Settings


class Via(StrEnum):
    """What the setting `via` may be."""

    AUTO = "auto"
    AGENT = "agent"
    OWN = "own"


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
            return admitted(settings, path, purpose)
        except (NoAgent, Refused) as refusal:
            refusals.append(refusal)
    telling = next((refusal for refusal in refusals if not isinstance(refusal, NoAgent)), refusals[0])
    if settings.via == "agent":
        raise telling
    if purpose is Purpose.RUN and not isinstance(telling, NoAgent):
        print(f"etcdlock: not under the agent's session but one of its own: {telling}", file=sys.stderr)
    return None
