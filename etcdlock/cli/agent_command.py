"""Hold the locks of this host's guests, as libvirt's lock manager.

The agent of a host keeps one session in etcd for all its guests. It listens in virtlockd's place, so that a libvirt
with lock_manager = "lockd" takes its locks in etcd without knowing it.

It can be ended (SIGTERM) and started again while guests run: their locks stay, and the next agent goes on with them. If
none is back in time, the guard that it leaves behind stops the guests before others may have their locks.
"""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING, Any

from etcdlock.cli.common import Common, run_async
from etcdlock.cli.exits import Exit

if TYPE_CHECKING:
    from etcdlock.adapters.guard_record import GuardRecord
    from etcdlock.agent.host import HostAgent
    from etcdlock.agent.kept_guard import KeptGuard
    from etcdlock.config import Settings
    from etcdlock.libvirt.server import Door

USAGE = "[OPTIONS]"

ENDING = (signal.SIGTERM, signal.SIGINT)
RELOAD = signal.SIGUSR1
"""Sent where virtlockd would be told to start itself anew without losing a lock, as when libvirt is upgraded."""
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

    from etcdlock.adapters.guard_record import GuardRecord
    from etcdlock.adapters.host_processes import HostProcesses
    from etcdlock.agent.host import HostAgent
    from etcdlock.cli.wiring import check_versions, make_context, open_store, start_guard
    from etcdlock.identity import DiskIdentity, identify_path
    from etcdlock.libvirt.server import Door
    from etcdlock.libvirt.sockets import allow_descriptors
    from etcdlock.model import SessionKind

    allow_descriptors(DESCRIPTORS)
    async with open_store(settings) as store:
        await check_versions(settings, store)
        context, guards = make_context(settings, store, kind=SessionKind.AGENT), GuardRecord(settings.run_folder)
        guard = await start_guard(context.timing, started=guards.add)
        agent = HostAgent(
            context,
            processes=HostProcesses(),
            acquire_seconds=settings.acquire_seconds,
            join_seconds=settings.answer_seconds,
            guard=guard,
        )
        door = Door(
            agent,
            identify=partial(identify_path, rule=DiskIdentity(settings.disk_identity)),
            uid=os.getuid(),
            acquire_seconds=settings.acquire_seconds + DOOR_BEHIND_SECONDS,
        )
        await _until_told(agent, door, guard, guards, socket=settings.lock_socket)


async def _until_told(
    agent: HostAgent, door: Door, guard: KeptGuard, guards: GuardRecord, /, *, socket: str
) -> None:
    """Open the door once every guest of an earlier agent is known, and close it before anything else ends."""
    import asyncio

    told = asyncio.Event()
    for number in ENDING:
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    asyncio.get_running_loop().add_signal_handler(RELOAD, _nothing)
    running = asyncio.ensure_future(agent.run())
    others: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(part) for part in (guard.keep(), _serve_door(agent, door, guards, socket), told.wait())
    ]
    try:
        await asyncio.wait((running, *others), return_when=asyncio.FIRST_COMPLETED)
    finally:
        failed = [part for part in others if part.done()]
        await door.close()
        await agent.stop()
        for part in others:
            part.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await guard.close()
    await running
    for part in failed:
        part.result()


async def _serve_door(agent: HostAgent, door: Door, guards: GuardRecord, socket: str, /) -> None:
    import asyncio

    from etcdlock.journal import note
    from etcdlock.libvirt.sockets import listen

    await agent.ready.wait()
    await door.open(listen(socket))
    note("agent_ready", guests=len(agent.residents))
    await agent.all_inherited.wait()
    guards.end_earlier()
    await asyncio.Event().wait()  # what ends here has failed


def _nothing() -> None:
    """Nothing is kept that would have to be read anew."""
