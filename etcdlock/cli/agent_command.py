"""Hold the locks of this host's guests, for libvirt too.

The agent of a host keeps one session in etcd for all its guests. It listens in virtlockd's place, so that a libvirt
with lock_manager = "lockd" takes its locks in etcd without knowing it.

It can be ended (SIGTERM) and started again while guests run: their locks stay, and the next agent goes on with them. If
none is back in time, the guard that it leaves behind stops the guests before others may have their locks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from etcdlock.cli.common import Common, run_async
from etcdlock.cli.ending import Ending, OnGuests, end_when_told
from etcdlock.cli.exits import Exit

if TYPE_CHECKING:
    from etcdlock.adapters.systemd import Systemd
    from etcdlock.agent.host import HostAgent
    from etcdlock.cli.doors import Doors
    from etcdlock.config import Settings
    from etcdlock.hosting import Host

USAGE = "[OPTIONS]"

DESCRIPTORS = 40_960
"""Two for each guest and some to spare; as many as virtlockd's own unit allows it."""


def command(
    common: Common,
    *,
    on_guests: Annotated[
        OnGuests,
        typer.Option(
            metavar="keep|refuse",
            help="when told to end while guests run: end and keep their locks, or go on unless told twice [keep]",
            show_default=False,
        ),
    ] = OnGuests.KEEP,
) -> int:
    """Serve until told to end."""
    from etcdlock.adapters.alone import only_agent
    from etcdlock.adapters.flight_record import keeping
    from etcdlock.cli.backlog import logging_in_background
    from etcdlock.wiring import record_places

    settings = _apart(_in_a_real_cluster(common.settings()), uid=os.geteuid())
    if settings.is_shadow:
        from etcdlock.cli.shadow_agent import serve
    else:
        serve = _serve
    with only_agent(settings.run_folder), logging_in_background(), keeping(record_places(settings)):
        run_async(serve(settings, on_guests=on_guests))
    return Exit.OK


def _in_a_real_cluster(settings: Settings, /) -> Settings:
    """An agent that enforces is nobody's shadow."""
    from etcdlock.config import SHADOW
    from etcdlock.errors import InvalidSetting

    if settings.cluster.endswith(SHADOW) and not settings.is_shadow:
        raise InvalidSetting(
            f"cluster is {settings.cluster!r}: clusters of such names are for agents whose mode is 'shadow'",
            hint="set mode, or another cluster",
        )
    return settings


def _apart(settings: Settings, /, *, uid: int) -> Settings:
    from etcdlock.wiring import agent_host_id

    return settings.model_copy(update={"host_id": agent_host_id(settings, uid=uid)})


async def _serve(settings: Settings, /, *, on_guests: OnGuests) -> None:
    from etcdlock.cli.arrivals import Arrivals
    from etcdlock.cli.doors import Doors
    from etcdlock.cli.host_facts import places
    from etcdlock.cli.own_actions import OwnActions
    from etcdlock.cli.switches import fencer
    from etcdlock.hosting import open_host
    from etcdlock.libvirt.sockets import allow_descriptors
    from etcdlock.model import SessionKind
    from etcdlock.wiring import record_places

    allow_descriptors(DESCRIPTORS)
    statuses = places(uid=os.geteuid(), environment=os.environ).statuses
    opening = open_host(
        settings,
        kind=SessionKind.AGENT,
        folder=settings.run_folder,
        arrives=Arrivals(statuses).arrives,
        own_action=OwnActions(statuses, has_command=bool(settings.on_session_lost_command)).of,
        keeper_of=partial(fencer, settings),
        new_ring=record_places(settings).new_ring,
    )
    async with opening as host:
        door = Doors(settings, host.agent, host.context, processes=host.processes, store=host.store, namer=host.namer)
        await _until_told(host, door, partial(Ending, host.agent, host.context.clock, on_guests=on_guests))


async def _until_told(host: Host, door: Doors, heed: Callable[..., Ending], /) -> None:
    """Open the door once every guest of an earlier agent is known, and close it before anything else ends."""
    import asyncio

    from etcdlock.adapters.systemd import Systemd

    told, systemd = asyncio.Event(), Systemd()
    end_when_told(heed(end=told.set))

    async def close() -> None:
        systemd.stopping()
        await door.close()

    informing = _inform(systemd, host.agent, overdue_seconds=host.context.timing.unattended_seconds)
    await host.keep(_serve_door(host, door, systemd=systemd), informing, told=told, before_end=close)


async def _serve_door(host: Host, door: Doors, /, *, systemd: Systemd) -> None:
    import asyncio

    from etcdlock.journal import note

    await host.agent.ready.wait()
    await door.open()
    note("agent_ready", guests=len(host.agent.residents))
    systemd.ready(_status(host.agent))
    await host.succeed()
    await asyncio.Event().wait()  # what ends here has failed


async def _inform(systemd: Systemd, agent: HostAgent, /, *, overdue_seconds: float) -> None:
    """Let systemd know that the session is attended to; a program that hangs is started anew while there is time."""
    await agent.ready.wait()
    await systemd.keep_informed(
        lambda: agent.member.rounds, lambda: _status(agent), overdue_seconds=overdue_seconds
    )


def _status(agent: HostAgent, /) -> str:
    """As `systemctl status` shows it."""
    member = agent.member
    trouble = "; ".join(("", *member.last_failure.splitlines()))
    return f"{len(agent.residents)} guest(s), session {member.session.ref} is {member.phase}{trouble}"
