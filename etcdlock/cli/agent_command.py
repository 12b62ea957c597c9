"""Hold the locks of this host's guests, as libvirt's lock manager.

The agent of a host keeps one session in etcd for all its guests. It listens in virtlockd's place, so that a libvirt
with lock_manager = "lockd" takes its locks in etcd without knowing it.

It can be ended (SIGTERM) and started again while guests run: their locks stay, and the next agent goes on with them.
It must be back before the session runs out; until the guard is a process of its own, nothing stops guests meanwhile.
"""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING

from etcdlock.cli.common import Common, run_async
from etcdlock.cli.exits import Exit

if TYPE_CHECKING:
    from etcdlock.agent.host import HostAgent
    from etcdlock.config import Settings
    from etcdlock.libvirt.server import Door

USAGE = "[OPTIONS]"

ENDING = (signal.SIGTERM, signal.SIGINT)
DOOR_BEHIND_SECONDS = 1.0
"""How much longer the door waits than the agent, whose own words say more than that time is up."""

DESCRIPTORS = 40_960
"""Two for each guest and some to spare; as many as virtlockd's own unit allows it."""


def command(common: Common) -> int:
    """Serve until told to end."""
    from etcdlock.adapters.alone import only_agent

    settings = common.settings()
    with only_agent(settings.run_folder):
        run_async(_serve(settings))
    return Exit.OK


async def _serve(settings: Settings, /) -> None:
    import os

    from etcdlock.adapters.host_processes import HostProcesses
    from etcdlock.agent.host import HostAgent
    from etcdlock.cli.wiring import check_versions, make_context, open_store
    from etcdlock.identity import DiskIdentity, identify_path
    from etcdlock.libvirt.server import Door
    from etcdlock.libvirt.sockets import allow_descriptors
    from etcdlock.model import SessionKind

    allow_descriptors(DESCRIPTORS)
    async with open_store(settings) as store:
        await check_versions(settings, store)
        agent = HostAgent(
            make_context(settings, store, kind=SessionKind.AGENT),
            processes=HostProcesses(),
            acquire_seconds=settings.acquire_seconds,
            join_seconds=settings.answer_seconds,
        )
        door = Door(
            agent,
            identify=partial(identify_path, rule=DiskIdentity(settings.disk_identity)),
            uid=os.getuid(),
            acquire_seconds=settings.acquire_seconds + DOOR_BEHIND_SECONDS,
        )
        await _until_told(agent, door, socket=settings.lock_socket)


async def _until_told(agent: HostAgent, door: Door, /, *, socket: str) -> None:
    """Open the door once every guest of an earlier agent is known, and close it before anything else ends."""
    import asyncio

    from etcdlock.journal import note
    from etcdlock.libvirt.sockets import listen

    told = asyncio.Event()
    for number in ENDING:
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    running, ready, ending = (
        asyncio.ensure_future(part) for part in (agent.run(), agent.ready.wait(), told.wait())
    )
    try:
        await asyncio.wait((running, ready, ending), return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and not running.done():
            await door.open(listen(socket))
            note("agent_ready", guests=len(agent.residents))
            await asyncio.wait((running, ending), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await door.close()
        await agent.stop()
        ready.cancel()
        ending.cancel()
    await running
