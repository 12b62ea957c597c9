"""A program that holds the locks of a host's guests, put together: `etcdlock agent`, or what embeds the driver `etcd`.

Both are the same agent with the same guard beside it; they differ in who asks, and in the kind of their session.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from etcdlock.watching import start_agents_guard
from etcdlock.wiring import check_versions, make_context, namer, open_store

if TYPE_CHECKING:
    from etcdlock.adapters.etcd import EtcdStore
    from etcdlock.adapters.guard_record import GuardRecord
    from etcdlock.adapters.host_processes import HostProcesses
    from etcdlock.agent.context import Context
    from etcdlock.agent.host import HostAgent
    from etcdlock.agent.kept_guard import KeptGuard
    from etcdlock.agent.member import Member
    from etcdlock.agent.namer import Namer
    from etcdlock.config import Settings
    from etcdlock.model import DomainId, SessionKind

    Keeper = Callable[[Member], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Host:
    """All of it. Nothing runs before `keep`."""

    settings: Settings
    agent: HostAgent
    context: Context
    processes: HostProcesses
    store: EtcdStore
    guard: KeptGuard
    guards: GuardRecord
    namer: Namer

    async def succeed(self) -> None:
        """Once every guest of an earlier program is armed here, or stopped, let that one's guard end."""
        await self.agent.all_inherited.wait()
        ours = frozenset((resident.guest.pid, resident.guest.pid_start) for resident in self.agent.residents)
        await self.guard.knows_all()
        await self.guards.end_earlier(ours=ours)
        await self.agent.ledger.custody.earlier_guards_ended()

    async def keep(
        self, *parts: Coroutine[Any, Any, object], told: asyncio.Event, before_end: Callable[[], Awaitable[None]]
    ) -> None:
        """Run until told to end, or until a part ends that must not; raises what made it end.

        `before_end` is done first at the end: then nobody asks any more.
        """
        try:
            await keep_beside(
                self.agent.run(), self.guard.keep(), *parts, told=told, before_end=before_end, stop=self.agent.stop
            )
        finally:
            await self.guard.close()


async def keep_beside(
    agent: Coroutine[Any, Any, None],
    /,
    *parts: Coroutine[Any, Any, object],
    told: asyncio.Event,
    before_end: Callable[[], Awaitable[None]],
    stop: Callable[[], Awaitable[None]],
) -> None:
    """Run an agent and its parts as `Host.keep` does; `stop` ends the agent in order."""
    running = asyncio.ensure_future(agent)
    others: list[asyncio.Future[Any]] = [asyncio.ensure_future(part) for part in (*parts, told.wait())]
    try:
        await asyncio.wait((running, *others), return_when=asyncio.FIRST_COMPLETED)
    finally:
        failed = [part for part in others if part.done()]
        await before_end()
        await stop()
        for part in others:
            part.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    await running
    for part in failed:
        part.result()


@contextlib.asynccontextmanager
async def open_host(
    settings: Settings,
    /,
    *,
    kind: SessionKind,
    folder: str,
    arrives: Callable[[int, DomainId], bool] | None = None,
    keeper_of: Callable[[Context], Keeper | None] | None = None,
    new_ring: Callable[[], str] = str,
    own_action: Any = None,
) -> AsyncIterator[Host]:
    """Connected, and with a guard that has started; `folder` keeps what a later one of its kind must know.

    `keeper_of` makes what is begun once it has joined, as `HostAgent` says; `new_ring` is `start_agents_guard`'s,
    `own_action` the context's.
    """
    from etcdlock.adapters.committer import Committer
    from etcdlock.adapters.guard_record import GuardRecord
    from etcdlock.adapters.host_processes import HostProcesses
    from etcdlock.agent.host import HostAgent

    async with open_store(settings) as store:
        await check_versions(settings, store)
        context, guards = make_context(settings, store, kind=kind), GuardRecord(folder)
        guard, timing = await start_agents_guard(settings, guards, new_ring=new_ring)
        context = context.on(timing)
        if own_action is not None:
            context = replace(context, own_action=own_action)
        processes, names = HostProcesses(arrives=arrives), namer(settings)
        agent = HostAgent(
            context,
            processes=processes,
            acquire_seconds=settings.acquire_seconds,
            join_seconds=settings.answer_seconds,
            guard=guard,
            ledger_store=Committer(store, max_txn_ops=settings.max_txn_ops),
            keeper=keeper_of(context) if keeper_of is not None else None,
            namer=names,
        )
        yield Host(settings, agent, context, processes, store, guard, guards, names)
