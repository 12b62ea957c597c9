"""`etcdlock agent` where `mode` is `shadow`: its doors open at once, and every answer there is yes."""

from __future__ import annotations

import asyncio
import logging
import os
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from etcdlock.adapters.flight_record import keeping
from etcdlock.adapters.systemd import Systemd
from etcdlock.agent.findings import BEGAN, REFUSED, STOPPED
from etcdlock.cli.arrivals import Arrivals
from etcdlock.cli.doors import Doors
from etcdlock.cli.ending import Ending, OnGuests, end_when_told
from etcdlock.cli.host_facts import places
from etcdlock.cli.own_actions import OwnActions
from etcdlock.journal import note
from etcdlock.shadowing import ShadowHost, open_shadow
from etcdlock.wiring import shadow_places

if TYPE_CHECKING:
    from etcdlock.config import Settings


async def serve(settings: Settings, /, *, on_guests: OnGuests) -> None:
    """Until told to end."""
    statuses = places(uid=os.geteuid(), environment=os.environ).statuses
    own_action = OwnActions(statuses, has_command=bool(settings.on_session_lost_command)).of
    opening = open_shadow(settings, arrives=Arrivals(statuses).arrives, own_action=own_action)
    recording = keeping(shadow_places(settings), only=frozenset((BEGAN, REFUSED, STOPPED)))
    async with opening as host:
        with recording:
            door = Doors(
                settings,
                host.agent,
                host.context,
                processes=host.processes,
                store=host.store,
                namer=host.namer,
                shadow=host.shadow,
            )
            await _until_told(host, door, settings, on_guests=on_guests)


async def _until_told(host: ShadowHost, door: Doors, settings: Settings, /, *, on_guests: OnGuests) -> None:
    told, systemd = asyncio.Event(), Systemd()
    end_when_told(Ending(host.agent, host.context.clock, on_guests=on_guests, end=told.set))

    async def close() -> None:
        systemd.stopping()
        await door.close()

    status = partial(_status, host)
    informing = systemd.keep_informed(
        count().__next__, status, overdue_seconds=host.context.timing.unattended_seconds
    )
    await host.keep(_serve_door(host, door, settings, systemd), informing, told=told, before_end=close)


async def _serve_door(host: ShadowHost, door: Doors, settings: Settings, systemd: Systemd, /) -> None:
    await door.open()
    what = "nothing is refused and nothing is stopped: no guest of this host is protected"
    note(BEGAN, level=logging.WARNING, host=host.context.host, cluster=settings.cluster, means=what)
    systemd.ready(_status(host))
    await host.agent.ready.wait()
    note("agent_ready", guests=len(host.agent.residents))
    await asyncio.Event().wait()  # what ends here has failed


def _status(host: ShadowHost, /) -> str:
    """As `systemctl status` shows it."""
    member = host.agent.member
    session = f"session {member.session.ref} is {member.phase}" if member.has_joined else "etcd is away"
    return f"SHADOW MODE, nothing is protected: {len(host.agent.residents)} guest(s), {session}"
