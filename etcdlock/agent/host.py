"""The agent of a host: one session for all its guests, which others start and stop.

What its doors are told is said in terms of guests: one is present, its vCPUs are about to run or have stopped, a disk
comes or goes, its process is gone. From that it takes, parks, claims and gives back locks.

Guaranteed: a yes to `take` means that the domain's lock names this session, the resource is held, and the guest is
armed and in time. `give_up` answers from what is known here and never waits for etcd, which is told afterwards, in
order. What a guest held is given back when its process is gone, however often etcd has to be asked.

Not guaranteed: anything while this program is dead. Another one, started on the same boot, goes on where it ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from etcdlock.agent.context import Context
from etcdlock.agent.enforcer import Enforcer
from etcdlock.agent.host_ledger import HostLedger
from etcdlock.agent.member import Member
from etcdlock.agent.observer import Observer
from etcdlock.agent.resuming import Departed, held_earlier
from etcdlock.errors import EtcdlockError, NoSuchGuest, NotLocked, NotTheOwner, Refused, Superseded
from etcdlock.journal import note
from etcdlock.model import LockState, Owner, Resource, StoredDomain
from etcdlock.ports import Guest, Processes
from etcdlock.transitions import Wanted

AGAIN_SECONDS = 1.0


@dataclass(slots=True)
class Resident:
    """A guest of this host. `turn` orders what is done for it; `rests` says what its doors last said of its vCPUs."""

    owner: Owner
    guest: Guest
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    rests: bool = False


class HostAgent:
    """Holds the locks of a host's guests. `run` must go on for as long as anything is held."""

    def __init__(
        self, context: Context, /, *, processes: Processes, acquire_seconds: float, join_seconds: float
    ) -> None:
        self._context = context
        self._processes = processes
        self._acquire_seconds = acquire_seconds
        self._join_seconds = join_seconds
        self._guard = Enforcer(context.clock, timing=context.timing)
        self.member = Member(context, guard=self._guard)
        self.ledger = HostLedger(context, member=self.member, guard=self._guard)
        self._observer = Observer(context)
        self._residents: dict[UUID, Resident] = {}
        self._parts: asyncio.TaskGroup | None = None
        self.ready = asyncio.Event()

    @property
    def residents(self) -> tuple[Resident, ...]:
        """The guests of this host, as far as anybody has told."""
        return tuple(self._residents.values())

    async def run(self) -> None:
        """Join or resume the earlier agent's session, then keep it, for ever. Raises what joining raises."""
        clock = self._context.clock
        await self.member.resume_or_join(until=clock.now() + self._join_seconds)
        async with asyncio.TaskGroup() as parts:
            self._parts = parts
            parts.create_task(self.member.keep(self.ledger))
            parts.create_task(self._guard.keep())
            parts.create_task(self._observer.keep())
            await self._adopt_all()
            self.ready.set()

    # --- what the doors say ----------------------------------------------------------------------------------------

    def present(self, owner: Owner, /) -> None:
        """A guest's process has started. Raises `NoSuchGuest`, or `Refused` if the domain has another process here."""
        self._resident(owner)

    async def take(self, owner: Owner, resource: Resource, /) -> None:
        """The guest is about to run, or to open the resource; what it holds already is a success.

        Raises `HeldElsewhere`, `Superseded` where another host has claimed it, and whatever else says why not.
        """
        resident, until = self._resident(owner), self._context.clock.now() + self._acquire_seconds
        async with resident.turn:
            uuid = owner.domain.uuid
            stored = await self._held(resident, resource, until=until)
            if resource in stored.record.resources:
                await self.ledger.unpark(uuid, until=until)
                resident.rests = False
            else:  # a disk that comes to a guest; if its vCPUs are stopped, they stay so
                await self.ledger.add(uuid, resource, until=until)

    async def _held(self, resident: Resident, resource: Resource, /, *, until: float) -> StoredDomain:
        """The domain's lock, taken with this resource if it is not held yet."""
        owner, guest = resident.owner, resident.guest
        holding = self.ledger.holding(owner.domain.uuid)
        if holding is not None:
            return holding.stored
        context = self._context
        wanted = Wanted(
            owner.domain, (resource,), context.fresh_id(), context.since(), pid=guest.pid, pid_start=guest.pid_start
        )
        take = self.ledger.claim if self._processes.awaits_migration(guest) else self.ledger.acquire
        return await take(wanted, guest, until=until)

    def give_up(self, owner: Owner, resource: Resource, /) -> None:
        """The guest's vCPUs have stopped, or if it has closed the resource, that is gone from it.

        Raises `NotLocked` and `NotTheOwner`.
        """
        uuid = owner.domain.uuid
        resident, holding = self._residents.get(uuid), self.ledger.holding(uuid)
        if resident is None or holding is None or resource not in holding.stored.record.resources:
            raise NotLocked(f"{resource} is not locked for domain {owner.domain}")
        if resident.owner.pid != owner.pid:
            raise NotTheOwner(f"{resource} is locked for {resident.owner}, not for process {owner.pid}")
        if not self._processes.has_open(resident.guest, resource):
            self._begin(self._until_removed(resident, resource))
        elif not resident.rests:
            resident.rests = True
            self._begin(self._until_parked(resident))

    def departed(self, owner: Owner, /) -> None:
        """The guest's own connection has ended. Whether it is gone, only its process tells, and that is watched."""
        resident = self._residents.get(owner.domain.uuid)
        note("connection_ended", domain=owner.domain, pid=owner.pid, known=resident is not None)

    # --- what follows, in its own time -----------------------------------------------------------------------------

    async def _until_parked(self, resident: Resident, /) -> None:
        uuid = resident.owner.domain.uuid
        while resident.rests and self._residents.get(uuid) is resident:
            async with resident.turn:
                if not resident.rests or self.ledger.holding(uuid) is None:
                    return
                await self.ledger.rest(uuid)
                if await self._done(self.ledger.park(uuid, until=self._context.clock.now()), uuid):
                    return
            await self._context.clock.sleep(AGAIN_SECONDS)

    async def _until_removed(self, resident: Resident, resource: Resource, /) -> None:
        uuid = resident.owner.domain.uuid
        while self._residents.get(uuid) is resident:
            async with resident.turn:
                if self.ledger.holding(uuid) is None:
                    return
                if await self._done(self.ledger.remove(uuid, resource, until=self._context.clock.now()), uuid):
                    return
            await self._context.clock.sleep(AGAIN_SECONDS)

    async def _until_released(self, resident: Resident, /) -> None:
        """Wait for the guest's end, then give back what it held."""
        uuid = resident.owner.domain.uuid
        await resident.guest.gone()
        note("guest_gone", domain=resident.owner.domain, pid=resident.guest.pid)
        async with resident.turn:
            while not await self._done(
                self.ledger.bury(uuid, resident.guest, until=self._context.clock.now()), uuid
            ):
                await self._context.clock.sleep(AGAIN_SECONDS)
        if self._residents.get(uuid) is resident:
            del self._residents[uuid]

    async def _done(self, change: Coroutine[Any, Any, object], uuid: UUID, /) -> bool:
        """Whether there is nothing left to do; what another host has now is none of our business any more."""
        try:
            await change
        except Superseded:
            return True
        except EtcdlockError as error:
            note("tried_again", level=logging.WARNING, domain=uuid, error=error)
            return False
        return True

    # --- guests ----------------------------------------------------------------------------------------------------

    def _resident(self, owner: Owner, /) -> Resident:
        known = self._residents.get(owner.domain.uuid)
        if known is not None and known.owner.pid == owner.pid:
            return known
        guest = self._processes.attach(owner.pid)
        if known is not None:
            raise Refused(
                f"domain {owner.domain} runs here already, as process {known.owner.pid}",
                hint="a domain has one process; wait until that one is gone",
            )
        return self._settle_in(Resident(owner, guest))

    def _settle_in(self, resident: Resident, /) -> Resident:
        self._residents[resident.owner.domain.uuid] = resident
        self._begin(self._until_released(resident))
        return resident

    def _begin(self, part: Coroutine[Any, Any, None], /) -> None:
        if self._parts is None:
            part.close()
            raise Refused("this host's agent is not ready yet", hint="try again")
        self._parts.create_task(part)

    async def _adopt_all(self) -> None:
        """Go on with the guests of an earlier agent of this boot; what has ended meanwhile is given back."""
        for stored in await held_earlier(self._context, until=self._context.clock.now() + self._join_seconds):
            record = stored.record
            try:
                guest = self._processes.attach(record.pid)
            except NoSuchGuest:
                guest = None
            if guest is None or guest.pid_start != record.pid_start:
                guest = Departed(record.pid, record.pid_start)
            resident = Resident(Owner(record.domain, record.pid), guest, rests=record.state is LockState.PARKED)
            await self._adopt(resident, stored)

    async def _adopt(self, resident: Resident, stored: StoredDomain, /) -> None:
        until = self._context.clock.now() + self._context.timing.stop_after_seconds
        try:
            await self.ledger.adopt(stored, resident.guest, until=until)
        except EtcdlockError as error:
            note("not_adopted", level=logging.ERROR, domain=stored.record.domain, error=error)
            if not resident.rests:
                resident.guest.kill()
        self._settle_in(resident)
