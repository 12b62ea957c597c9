"""What programs that manage guests ask of a host's agent: whole domains, from the guest's start to its end elsewhere.

Guaranteed: a call that is repeated after its answer was lost is a success if it was done. A yes comes only while the
guest is armed and its session is proven. All locks of a domain are taken in one transaction, or none.

A migration hands the lock over in one step, and may be undone until then:

    on the source                          on the destination
    park      vCPUs have stopped           incoming  waits for that, then claims; the guest must not run yet
    unpark    they are to run on here,     incoming_cancel    the lock is the source's again, as it was
              if it has not been claimed   incoming_complete  the guest may run; there is no way back
    complete  says whether it has been

Whatever ends in between, at most one of the two has the lock: if the destination's process ends before it may run, the
lock goes back by itself; if the source's does, the destination keeps what it has claimed.

Not guaranteed: that a guest does what its program says of it. What runs after `park` runs beside the destination's.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from uuid import UUID

from etcdlock.agent import known_paths, partitions
from etcdlock.agent.answering import answer_noted
from etcdlock.agent.context import Context
from etcdlock.agent.host import PAUSE_SECONDS, HostAgent
from etcdlock.agent.judging import named, same
from etcdlock.agent.residents import Asked, Resident, find_again
from etcdlock.errors import (
    EtcdlockError,
    InvalidInput,
    NotClaimed,
    NotLocked,
    NotTheOwner,
    OutcomeUnknown,
    Refused,
    Superseded,
)
from etcdlock.escalation import Action
from etcdlock.journal import note
from etcdlock.model import LockState, Mode, Owner, Resource, StoredDomain
from etcdlock.ports import Get, KeyRange, Processes, Txn
from etcdlock.records import decode_domain, decode_first
from etcdlock.transitions import Wanted

Work = Callable[[Asked], Awaitable[None]]


class Requests:
    """Asked by doors; `answer_seconds` bounds what does not depend on the guest. `knows_command`: whether a guest may
    choose that at a lost session.
    """

    def __init__(
        self,
        agent: HostAgent,
        context: Context,
        /,
        *,
        processes: Processes,
        answer_seconds: float,
        knows_command: bool = False,
    ) -> None:
        self._agent = agent
        self._ledger = agent.ledger
        self._context = context
        self._processes = processes
        self._answer_seconds = answer_seconds
        self._knows_command = knows_command

    # --- guests that begin and end ---------------------------------------------------------------------------------

    async def acquire(
        self, owner: Owner, resources: tuple[Resource, ...], /, *, on_session_lost: Action | None = None
    ) -> StoredDomain:
        """For a guest whose process exists and does not run yet: after this it may. It may choose for itself.

        Raises `HeldElsewhere`, and `Refused` where it is locked already, but parked, with other resources or another
        choice.
        """
        if on_session_lost is Action.COMMAND and not self._knows_command:
            hint = "set on_session_lost_command on this host, or choose kill or freeze"
            raise InvalidInput("on_session_lost: this host knows no command", hint=hint)
        with answer_noted(self._context, owner.domain, *resources):
            return await self._ask(owner, lambda asked: self._acquire(asked, resources, on_session_lost))

    async def _acquire(self, asked: Asked, resources: tuple[Resource, ...], choice: Action | None, /) -> None:
        resident = asked.resident
        self._check_arrived(resident)
        holding = self._ledger.holding(resident.uuid)
        if holding is not None:
            stored = holding.stored
        else:
            wanted = replace(self._wanted(resident, resources), on_session_lost=choice)
            stored = await self._ledger.enter(wanted, resident.guest, until=asked.until)
        _check_covered(stored, resources)
        _check_chosen(stored, choice)
        known_paths.remember_all(resident, resources)
        await self._let_run(asked, stored)

    async def attach(self, owner: Owner, resources: tuple[Resource, ...], /) -> StoredDomain:
        """The same for a guest that runs already, as one that was started while no agent did. A no does not stop it."""
        try:
            return await self.acquire(owner, resources)
        except EtcdlockError as error:
            await self._leave_unprotected(owner, error)
            raise

    async def _leave_unprotected(self, owner: Owner, error: EtcdlockError, /) -> None:
        """Loudly. It is not ours to stop, unless it had its locks before, or may yet turn out to have them."""
        resident = self._agent.find(owner.domain.uuid)
        if resident is None or resident.owner.pid != owner.pid:
            return
        async with resident.turn:
            if self._ledger.holding(resident.uuid) is not None:
                return
            note("runs_unprotected", level=logging.CRITICAL, domain=owner.domain, pid=owner.pid, error=error)
            warning = "the guest runs without its locks: stop it, or try again"
            error.hint = f"{error.hint}; {warning}" if error.hint else warning
            may_have_them = self._ledger.is_unsettled(resident.uuid)  # whatever the last try has ended by
            if not may_have_them and not isinstance(error, OutcomeUnknown | Superseded):
                await self._ledger.forsake(resident.uuid, resident.guest)
            elif not isinstance(error, Superseded):
                self._agent.doubt(resident)

    async def release(self, uuid: UUID, /) -> None:
        """See to it that all of it has been given back, as it is when the guest ends.

        Raises `Refused` while its process lives, and `OutcomeUnknown` if etcd does not answer in time.
        """
        until = self._until()
        while (resident := self._agent.find(uuid)) is not None:
            if not self._has_ended(resident):
                raise Refused(
                    f"domain {resident.owner} lives: its locks stay with it",
                    hint="end the process: its locks are given back then",
                )
            if self._context.clock.now() >= until:
                raise OutcomeUnknown(f"domain {resident.owner}: its locks are given back as soon as etcd answers")
            await self._context.clock.sleep(PAUSE_SECONDS)

    def _has_ended(self, resident: Resident, /) -> bool:
        guest = resident.guest
        return resident.gone or find_again(self._processes, guest.pid, guest.pid_start) is None

    async def find(self, uuid: UUID, /) -> StoredDomain | None:
        """The domain's record, whosever it is; None if nobody holds it."""
        holding = self._ledger.holding(uuid)
        return holding.stored if holding is not None else await self._look(uuid)

    def holds(self, uuid: UUID, /) -> bool:
        """Whether it is known to be held here, by a guest or as a reservation."""
        return self._ledger.holding(uuid) is not None

    async def give_back(self, owner: Owner, /) -> None:
        """What a process that is no guest has reserved, and does not use any more. Raises `NotTheOwner`, and whatever
        says that it may still be locked.
        """
        resident = self._agent.find(owner.domain.uuid)
        if resident is None:
            return
        if resident.owner.pid != owner.pid:
            raise NotTheOwner(f"{resident.owner} has reserved that, not process {owner.pid}")
        await self._agent.ask(resident.owner, self._give_up)

    async def _give_up(self, asked: Asked, /) -> None:
        resident = asked.resident
        await self._ledger.bury(resident.uuid, resident.guest, until=asked.until)
        self._agent.move_out(resident)

    # --- guests that stop, go on, and change -----------------------------------------------------------------------

    async def park(self, uuid: UUID, /) -> StoredDomain:
        """The guest's vCPUs have stopped. Raises `NotLocked` and `Superseded`; any other error ends in being parked."""
        return await self._ask_of(uuid, self._park)

    async def _park(self, asked: Asked, /) -> None:
        resident = asked.resident
        await self._ledger.current(resident.uuid)
        self._check_arrived(resident)
        resident.rests = True
        self._ledger.rest(resident.uuid)
        await self._ledger.park(resident.uuid, until=asked.until)

    async def unpark(self, uuid: UUID, /) -> StoredDomain:
        """The guest's vCPUs are about to run: after this they may. Raises `Superseded` once another has the domain."""
        return await self._ask_of(uuid, self._unpark)

    async def _unpark(self, asked: Asked, /) -> None:
        resident = asked.resident
        await self._ledger.current(resident.uuid)
        self._check_arrived(resident)
        await self._ledger.unpark(resident.uuid, until=asked.until)
        asked.check_in_time(self._context.clock.now())
        resident.rests = False
        self._agent.tell(resident)

    async def add(self, uuid: UUID, resource: Resource, /) -> StoredDomain:
        """The guest may open one more resource after this. Raises `HeldElsewhere`."""
        with answer_noted(self._context, self._owner(uuid).domain, resource):
            return await self._ask_of(uuid, lambda asked: self._add(asked, resource))

    async def _add(self, asked: Asked, resource: Resource, /) -> None:
        resident = asked.resident
        await self._ledger.current(resident.uuid)
        if resource.mode is not Mode.READ_ONLY:
            await partitions.add(self._ledger, resident.uuid, resource, until=asked.until)
            resident.closed.difference_update(named(resource, among=resident.closed))
            known_paths.remember(resident, resource, resource)
        asked.check_in_time(self._context.clock.now())

    async def remove(self, uuid: UUID, resource: Resource, /) -> StoredDomain:
        """The guest has closed it; in whatever mode. Raises `Refused` if it has not, or if that cannot be told."""
        return await self._ask_of(uuid, lambda asked: self._remove(asked, resource))

    async def _remove(self, asked: Asked, resource: Resource, /) -> None:
        resident = asked.resident
        stored = await self._ledger.current(resident.uuid)
        for held in self._asked_for(resident, resource, stored.record.resources):
            opened = replace(held, path=resource.path) if resource.path else held
            if await self._processes.has_open(resident.guest, opened):
                raise Refused(
                    f"{held}: {resident.owner} may still have it open",
                    hint="unplug it first; with the guest's end it is given back in any case",
                )
            await partitions.remove(self._ledger, resident.uuid, held, until=asked.until)
            known_paths.forget(resident, held)

    def _asked_for(self, resident: Resident, resource: Resource, held: Iterable[Resource], /) -> list[Resource]:
        """Under its name; or one that is known by its path alone, as it was called when it was locked."""
        return named(resource, among=held) if resource.name else known_paths.given(resident, resource, among=held)

    # --- guests that move ------------------------------------------------------------------------------------------

    async def complete(self, uuid: UUID, /) -> StoredDomain | None:
        """On the source, which may end its process after this. Raises `NotClaimed` while the domain is this host's.

        There is nothing to forget: what another has is not given back at the guest's end.
        """
        stored = await self._look(uuid)
        if stored is not None and stored.record.owner.host == self._context.host:
            raise NotClaimed(
                f"domain {stored.record.domain} is still this host's: no other has claimed it",
                hint="wait for the destination, or cancel the migration",
            )
        return stored

    async def incoming(self, owner: Owner, resources: tuple[Resource, ...], /, *, run: str = "") -> StoredDomain:
        """On the destination: claim the domain for a process that must not run yet, and add what it has not got.

        `run` is the run that the source has parked, as it says there; without it, the one in which the domain is when
        this process is first heard of. What nobody holds is acquired. Raises `HeldElsewhere` if the source has not
        parked it in time: then ask again; and `Refused` if the domain has been let run again.
        """
        with answer_noted(self._context, owner.domain, *resources):
            return await self._ask(owner, lambda asked: self._claim(asked, resources, run))

    async def _claim(self, asked: Asked, resources: tuple[Resource, ...], run: str, /) -> None:
        resident = asked.resident
        if self._ledger.holding(resident.uuid) is None:
            wanted, known = self._wanted(resident, resources), run or await self._run_of(resident.owner)
            await self._ledger.claim(wanted, resident.guest, run=known, until=asked.until)
            resident.arrives = not self._may_go_back(resident)  # acquired anew: on a no it stays, to be cancelled
        _check_runs(await self._ledger.current(resident.uuid))
        for resource in _locked(resources):
            await partitions.add(self._ledger, resident.uuid, resource, until=asked.until)
        known_paths.remember_all(resident, resources)
        await self._ledger.unpark(resident.uuid, until=asked.until)
        asked.check_in_time(self._context.clock.now())
        resident.arrives = resident.arrives or self._may_go_back(resident)

    async def _run_of(self, owner: Owner, /) -> str | None:
        """The run that its process takes in: noted now, if that is the first that is heard of it."""
        run = await self._agent.sightings.run_of(owner)
        if run is None:
            self._agent.sightings.note(owner)
            run = await self._agent.sightings.run_of(owner)
        return run

    def _may_go_back(self, resident: Resident, /) -> bool:
        """Whether it was claimed and its guest has not been let run."""
        holding = self._ledger.holding(resident.uuid)
        return holding is not None and holding.source is not None

    async def incoming_complete(self, uuid: UUID, /) -> StoredDomain:
        """On the destination: after this the guest may run, and what was claimed cannot go back."""
        return await self._ask_of(uuid, self._arrive)

    async def _arrive(self, asked: Asked, /) -> None:
        await self._let_run(asked, await self._ledger.current(asked.resident.uuid))

    async def incoming_cancel(self, uuid: UUID, /) -> StoredDomain | None:
        """On the destination: what was claimed is the source's again, parked as it was. Its process must not run.

        Raises `Refused` if it may run already.
        """
        if self._ledger.holding(uuid) is not None:
            await self._agent.ask(self._owner(uuid), self._give_back)
        return await self._look(uuid)

    async def _give_back(self, asked: Asked, /) -> None:
        resident = asked.resident
        if self._ledger.holding(resident.uuid) is None:
            return
        if not resident.arrives:
            raise Refused(
                f"domain {resident.owner} may run here already: it cannot go back", hint="migrate it, or end it"
            )
        await self._ledger.release(resident.uuid, until=asked.until)
        resident.arrives = False

    # --- parts -----------------------------------------------------------------------------------------------------

    async def _ask(self, owner: Owner, work: Work, /) -> StoredDomain:
        await self._agent.ask(owner, work)
        holding = self._ledger.holding(owner.domain.uuid)
        if holding is None:
            raise Superseded(f"domain {owner.domain} was lost to another before this could be answered")
        return holding.stored

    async def _ask_of(self, uuid: UUID, work: Work, /) -> StoredDomain:
        return await self._ask(self._owner(uuid), work)

    def _owner(self, uuid: UUID, /) -> Owner:
        resident = self._agent.find(uuid)
        if resident is None:
            raise NotLocked(f"domain {uuid} is not locked for any guest of this host")
        return resident.owner

    def _wanted(self, resident: Resident, resources: tuple[Resource, ...], /) -> Wanted:
        guest, context = resident.guest, self._context
        return Wanted(
            resident.owner.domain,
            resources,
            context.fresh_id(),
            context.since(),
            pid=guest.pid,
            pid_start=guest.pid_start,
        )

    def _check_arrived(self, resident: Resident, /) -> None:
        if resident.arrives and self._ledger.holding(resident.uuid) is not None:
            raise Refused(f"domain {resident.owner} is migrating in", hint="complete the migration, or cancel it")

    async def _let_run(self, asked: Asked, stored: StoredDomain, /) -> None:
        _check_runs(stored)
        await self._ledger.unpark(asked.resident.uuid, until=asked.until)  # is it armed and in time, still?
        asked.check_in_time(self._context.clock.now())
        asked.resident.rests = False
        self._agent.tell(asked.resident)

    async def _look(self, uuid: UUID, /) -> StoredDomain | None:
        """The domain's record. What it says of others was so; what it says of us may have changed."""
        reading = Txn((), (Get(KeyRange(self._context.keys.domain(uuid))),))
        async for attempt in self._context.patiently(until=self._until()):
            with attempt:
                found = (await self._context.look(reading)).replies[0]
        return decode_first(found, decode_domain)

    def _until(self) -> float:
        return self._context.clock.now() + self._answer_seconds


def _locked(resources: Iterable[Resource], /) -> tuple[Resource, ...]:
    return tuple(resource for resource in resources if resource.mode is not Mode.READ_ONLY)


def _check_covered(stored: StoredDomain, resources: tuple[Resource, ...], /) -> None:
    missing = [item for item in _locked(resources) if same(item, among=stored.record.resources) is None]
    if missing:
        raise Refused(
            f"domain {stored.record.domain} is locked already, but without {', '.join(map(str, missing))}",
            hint="add resources one by one",
        )


def _check_chosen(stored: StoredDomain, choice: Action | None, /) -> None:
    record = stored.record
    if choice is not None and choice is not record.on_session_lost:
        has = record.on_session_lost or "no choice of its own"
        raise Refused(f"domain {record.domain} is locked already, with {has} at a lost session and not {choice}")


def _check_runs(stored: StoredDomain, /) -> None:
    if stored.record.state is LockState.PARKED:
        raise Refused(f"domain {stored.record.domain} is parked here", hint="unpark it, or cancel its migration")
