"""A host's agent in shadow mode, put together: it answers yes to everything, stops nothing, and tells what it would do.

Guaranteed: nothing here can stop a guest. There is no guard and no watchdog, and the agent has this host's processes as
bystanders: what would end one of them is not in its hands. It serves before it has joined, and whether it ever does. No
key of the real cluster is written.

It does not start beside what an agent of this boot has locked for real: those guests would be stopped, or taken over,
and nobody here would see to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from etcdlock.errors import AccessDenied, CorruptRecord, Refused, Unreachable
from etcdlock.hosting import keep_beside
from etcdlock.journal import note
from etcdlock.model import Owner, SessionKind
from etcdlock.wiring import check_versions, make_context, namer, open_store

if TYPE_CHECKING:
    from etcdlock.adapters.etcd import EtcdStore
    from etcdlock.agent.bystander import Bystanders
    from etcdlock.agent.context import Context
    from etcdlock.agent.findings import Findings
    from etcdlock.agent.host import HostAgent
    from etcdlock.agent.namer import Namer
    from etcdlock.agent.shadow import Shadow
    from etcdlock.config import Settings
    from etcdlock.model import DomainId
    from etcdlock.ports import GuestName

AGAIN_SECONDS = 10.0
"""After the cluster has refused us."""


@dataclass(frozen=True, slots=True)
class ShadowHost:
    """All of it. Nothing runs before `keep`."""

    agent: HostAgent
    context: Context
    processes: Bystanders
    store: EtcdStore
    namer: Namer
    shadow: Shadow
    findings: Findings
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def keep(
        self, *parts: Coroutine[Any, Any, object], told: asyncio.Event, before_end: Callable[[], Awaitable[None]]
    ) -> None:
        """As `Host.keep`, but no refusal of the cluster's ends it."""

        async def stop() -> None:
            await self.shadow.close()
            self._ended.set()
            await self.agent.stop()

        await keep_beside(self._run(), *parts, told=told, before_end=before_end, stop=stop)

    async def _run(self) -> None:
        while not self._ended.is_set():
            try:
                await self.agent.run()
            except (Refused, CorruptRecord) as error:
                if self.agent.member.has_joined:
                    raise
                note("shadow_not_joined", level=logging.CRITICAL, error=error, again_in_seconds=AGAIN_SECONDS)
            else:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_SECONDS):
                    await self._ended.wait()


@contextlib.asynccontextmanager
async def open_shadow(
    settings: Settings, /, *, arrives: Callable[[int, DomainId], bool], own_action: Any
) -> AsyncIterator[ShadowHost]:
    """Raises `Refused` where an agent of this boot holds locks for real, as far as that can be seen now."""
    from etcdlock.adapters.committer import Committer
    from etcdlock.adapters.host_processes import HostProcesses
    from etcdlock.agent.bystander import Bystanders
    from etcdlock.agent.findings import Findings
    from etcdlock.agent.host import HostAgent
    from etcdlock.agent.shadow import Shadow
    from etcdlock.agent.witness import Witness

    async with open_store(settings) as store:
        await check_versions(settings, store)
        context = replace(make_context(settings, store, kind=SessionKind.AGENT), own_action=own_action)
        real = replace(context, keys=settings.for_real().keyspace)
        _check_no_guard(settings.run_folder)
        await _check_now(real, settings)
        findings, names = Findings(), namer(settings)
        processes = Bystanders(HostProcesses(arrives=arrives), told=findings.lost)
        agent = HostAgent(
            context,
            processes=processes,
            acquire_seconds=settings.acquire_seconds,
            join_seconds=float("inf"),
            ledger_store=Committer(store, max_txn_ops=settings.max_txn_ops),
            keeper=lambda _member: _check_later(real, settings),
            namer=names,
            witness=Witness(context.clock, timing=context.timing, told=findings.overdue),
        )
        findings.owner_of = lambda name: _owner_of(agent, name)
        shadow = Shadow(agent, context, findings=findings, wait_seconds=settings.acquire_seconds)
        yield ShadowHost(agent, context, processes, store, names, shadow, findings)


def _owner_of(agent: HostAgent, name: GuestName, /) -> Owner | None:
    found = (one.owner for one in agent.residents if (one.guest.pid, one.guest.pid_start) == name)
    return next(found, None)


# --- what is locked for real -----------------------------------------------------------------------------------------


async def _check_now(real: Context, settings: Settings, /) -> None:
    """An etcd that is away is no reason not to start: it is looked at again before anything is taken for granted."""
    try:
        await _check_nothing_is_real(real, settings, until=real.clock.now())
    except (Unreachable, AccessDenied) as error:
        note("shadow_starts_blind", level=logging.WARNING, error=error)


async def _check_later(real: Context, settings: Settings, /) -> None:
    """Once etcd has answered; then for ever, since it is a part that must not end."""
    with contextlib.suppress(AccessDenied):  # who may not look there has nothing there
        await _check_nothing_is_real(real, settings, until=float("inf"))
    await asyncio.Event().wait()


async def _check_nothing_is_real(real: Context, settings: Settings, /, *, until: float) -> None:
    from etcdlock.agent.resuming import held_earlier

    held = await held_earlier(real, until=until)
    if held:
        names = ", ".join(str(stored.record.domain) for stored in held)
        raise Refused(
            f"mode is 'shadow', and an agent of this host has locked {names} for real: its guests are stopped at their "
            "deadline unless such an agent is back",
            hint=f"start it with mode = \"enforce\" AT ONCE; end or migrate {names} before shadow mode is tried here "
            f"(cluster {settings.for_real().cluster})",
        )


def _check_no_guard(folder: str, /) -> None:
    from etcdlock.adapters.guard_record import guards_alive

    pids = ", ".join(map(str, guards_alive(folder)))
    if pids:
        raise Refused(
            f"mode is 'shadow', and an earlier agent's guard (process {pids}) stops its guests at their deadline",
            hint='start the agent with mode = "enforce" AT ONCE, or the guests end; shadow mode is for a host whose '
            "guests have no locks yet",
        )
