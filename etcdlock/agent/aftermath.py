"""What follows from an answer that a guest's door was given: what was said there becomes true in etcd, in its own time.

Guaranteed: it is done in the guest's turn, after what was asked before and ahead of what is asked later, and tried
again for as long as the guest lives and etcd does not answer. What a guest held is given back once its process is gone.
Nothing of it is waited for by whoever has asked.

Not guaranteed: anything once this program ends. The next agent sees to what is left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from etcdlock.agent import known_paths, partitions
from etcdlock.agent.context import Context
from etcdlock.agent.endings import Endings
from etcdlock.agent.host_ledger import HostLedger
from etcdlock.agent.parting import until_gone
from etcdlock.agent.residents import Resident, Residents
from etcdlock.agent.waiting import first_of
from etcdlock.errors import EtcdlockError, Superseded
from etcdlock.identity import stays_behind
from etcdlock.journal import note
from etcdlock.model import Resource
from etcdlock.ports import Processes

AGAIN_SECONDS = 1.0


class Aftermath:
    """Works while it is open, in the task group that it is given."""

    def __init__(
        self,
        context: Context,
        /,
        *,
        ledger: HostLedger,
        residents: Residents,
        processes: Processes,
        endings: Endings,
    ) -> None:
        self._context = context
        self._ledger = ledger
        self._residents = residents
        self._processes = processes
        self._endings = endings
        self._parts: asyncio.TaskGroup | None = None
        self._following: set[asyncio.Task[None]] = set()

    def open(self, parts: asyncio.TaskGroup, /) -> None:
        """From now on things are done."""
        self._parts = parts

    def close(self) -> None:
        """What is begun from now on is left to the next agent."""
        self._parts = None

    @property
    def has_work(self) -> bool:
        """Whether something that was said is not done yet. Guests that live are no work."""
        return bool(self._following)

    def begin(self, part: Coroutine[Any, Any, None], /) -> asyncio.Task[None] | None:
        """Do it beside everything else; None if it is left to the next agent."""
        if self._parts is None:
            part.close()
            return None
        task = self._parts.create_task(part)
        self._following.add(task)
        task.add_done_callback(self._following.discard)
        return task

    def follow(self, resident: Resident, /) -> None:
        """Give back what the guest held when it has ended, however far away that is."""
        if self._parts is not None:
            self._parts.create_task(self._until_released(resident))

    def given_up(self, resident: Resident, resources: list[Resource], /, *, opened: Resource) -> None:
        """Its vCPUs have stopped; or it has closed these, one resource in whatever modes, and they are gone from it.

        `opened` is the same with the path by which this host's guest may have it open.
        """
        self.begin(self._until_known(resident, resources, opened))

    def doubted(self, resident: Resident, /) -> None:
        """It runs, and whether it has its locks is not known yet; if it has not, it is no more than it was before."""
        self.begin(self._until_settled(resident))

    def rests(self, resident: Resident, /) -> None:
        """Its vCPUs stand still, and etcd may not say so yet."""
        self.begin(self._until_parked(resident))

    def leave_behind(self, resident: Resident, /) -> None:
        """Files that another host has for itself did not come along with a guest that has arrived for good."""
        holding = self._ledger.holding(resident.uuid)
        found = () if holding is None else holding.stored.record.resources
        host, boot = self._context.host, self._context.machine.boot
        left = {resource for resource in found if stays_behind(resource, host=host, boot=boot)}
        if left - resident.closed:
            resident.closed |= left
            self.begin(self._until_removed(resident))

    # --- until it is done ------------------------------------------------------------------------------------------

    async def _until_known(self, resident: Resident, resources: list[Resource], opened: Resource, /) -> None:
        """Which of the two it is, the guest's open files tell: to look at them may have to wait for a dead server."""
        async with resident.turn:
            if resident.gone:
                return
            is_open = await self._processes.has_open(resident.guest, opened)
            was_resting = resident.rests
            resident.rests = is_open or was_resting
            if is_open:
                self._ledger.rest(resident.uuid)  # also for whoever lets it run before this has reached etcd
            resident.closed.update(() if is_open else resources)
        if not is_open:
            await self._until_removed(resident)
        elif not was_resting:
            await self._until_parked(resident)

    async def _until_parked(self, resident: Resident, /) -> None:
        """Unless the guest is let run again before that."""
        while not resident.gone:
            async with resident.turn:
                if not resident.rests or self._ledger.holding(resident.uuid) is None:
                    return
                self._ledger.rest(resident.uuid)
                if await self._done(self._ledger.park(resident.uuid, until=self._now()), resident):
                    return
            await self._context.clock.sleep(AGAIN_SECONDS)

    async def _until_settled(self, resident: Resident, /) -> None:
        """A guest that is armed without a lock would be stopped with the session that it was to have, for nothing."""
        while not resident.gone:
            async with resident.turn:
                if self._ledger.holding(resident.uuid) is not None:
                    return
                if not self._ledger.is_unsettled(resident.uuid):
                    await self._ledger.forsake(resident.uuid, resident.guest)
                    return
            await self._context.clock.sleep(AGAIN_SECONDS)

    async def _until_removed(self, resident: Resident, /) -> None:
        """Whatever the guest has closed, unless it is taken anew before that."""
        while not resident.gone:
            async with resident.turn:
                for resource in sorted(resident.closed):
                    removing = partitions.remove(self._ledger, resident.uuid, resource, until=self._now())
                    if await self._done(removing, resident):
                        resident.closed.discard(resource)
                        known_paths.forget(resident, resource)
                if not resident.closed:
                    return
            await self._context.clock.sleep(AGAIN_SECONDS)

    async def _until_released(self, resident: Resident, /) -> None:
        """Wait for the guest's end, then give back what it held. One that has left holds nothing."""
        await first_of(until_gone(resident.guest, self._context.clock), resident.left.wait())
        if resident.left.is_set():
            return
        resident.gone = True
        self._endings.remember(resident)
        note("guest_gone", domain=resident.owner.domain, pid=resident.guest.pid)
        async with resident.turn:
            while not await self._done(
                self._ledger.bury(resident.uuid, resident.guest, until=self._now()), resident
            ):
                await self._context.clock.sleep(AGAIN_SECONDS)
            self._residents.remove(resident)

    async def _done(self, change: Coroutine[Any, Any, object], resident: Resident, /) -> bool:
        """Whether there is nothing left to do; what another host has now is none of our business any more."""
        try:
            await change
        except Superseded:
            return True
        except EtcdlockError as error:
            note("tried_again", level=logging.WARNING, domain=resident.owner.domain, error=error)
            return False
        return True

    def _now(self) -> float:
        return self._context.clock.now()
