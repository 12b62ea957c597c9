"""One host as a user has it: the agent's own member, ledger, enforcer and guard process, on a private etcd.

Of a real host it lacks only the guests: one process that waits behind its gate stands for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from uuid import uuid4

from etcdlock.adapters.committer import Committer
from etcdlock.adapters.etcd import EtcdStore
from etcdlock.adapters.processes import LocalGuests
from etcdlock.agent.context import Context
from etcdlock.agent.enforcer import Enforcer, Together
from etcdlock.agent.ledger import Ledger
from etcdlock.agent.member import Member
from etcdlock.config import Settings, load
from etcdlock.guarding import start_guard
from etcdlock.model import DomainId, Mode, Resource, SessionKind
from etcdlock.ports import Guard, Guest
from etcdlock.session import Session
from etcdlock.transitions import Wanted
from etcdlock.wiring import make_context, open_store

ANSWER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Host:
    """`ledger` sends its transactions one by one, `group_ledger` through group commit."""

    store: EtcdStore
    context: Context
    ledger: Ledger
    group_ledger: Ledger
    session: Callable[[], Session]
    guard: Guard
    guest: Guest

    @property
    def until(self) -> float:
        return self.context.clock.now() + ANSWER_SECONDS

    def wanted(self, disks: int) -> Wanted:
        """A domain that nobody has, with that many disks of its own."""
        uuid = uuid4()
        paths = [f"/var/lib/libvirt/images/{uuid}-{number}.qcow2" for number in range(disks)]
        resources = tuple(Resource("path", path, Mode.EXCLUSIVE, path) for path in paths)
        context, guest = self.context, self.guest
        return Wanted(
            DomainId(uuid, f"guest-{uuid}"),
            resources,
            context.fresh_id(),
            context.since(),
            pid=guest.pid,
            pid_start=guest.pid_start,
        )


@asynccontextmanager
async def host_on(endpoint: str, /) -> AsyncIterator[Host]:
    """Join, keep the session while the block lasts, and leave."""
    settings = load(
        flags={"endpoints": (endpoint,), "cluster": f"bench-{uuid4()}", "host_id": "bench"}, environment={}
    )
    async with open_store(settings) as store:
        context = make_context(settings, store, kind=SessionKind.AGENT)
        guests = LocalGuests()
        kept_guard = await start_guard(settings, started=guests.spare)
        enforcer = Enforcer(context.clock, timing=context.timing)
        guard = Together(enforcer, kept_guard)
        member = Member(context, guard=guard)
        ledger = Ledger(context, member=member, guard=guard)
        grouped = Ledger(_grouped(context, store, settings), member=member, guard=guard)
        session = await member.join(until=context.clock.now() + ANSWER_SECONDS)
        guest = await guests.start(("true",), environment={})
        keepers = [asyncio.ensure_future(keeper) for keeper in (member.keep(ledger), enforcer.keep())]
        try:
            yield Host(store, context, ledger, grouped, lambda: member.session, guard, guest)
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            guest.kill()
            await guest.gone()
            await guard.disarm(guest)
            await member.leave(unreleased=frozenset(), until=context.clock.now())
            await guard.close()
            await store.revoke(session.lease)


def _grouped(context: Context, store: EtcdStore, settings: Settings) -> Context:
    return replace(context, store=Committer(store, max_txn_ops=settings.max_txn_ops))
