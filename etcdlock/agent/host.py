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
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, NoReturn
from uuid import UUID

from etcdlock.agent import known_paths, partitions
from etcdlock.agent.aftermath import Aftermath
from etcdlock.agent.answering import answer_noted
from etcdlock.agent.context import Context, first_cause
from etcdlock.agent.endings import Endings
from etcdlock.agent.enforcer import Enforcer, Together
from etcdlock.agent.host_ledger import HostLedger
from etcdlock.agent.judging import named, same
from etcdlock.agent.lookout import Lookout
from etcdlock.agent.member import Member
from etcdlock.agent.namer import Namer
from etcdlock.agent.observer import Observer
from etcdlock.agent.parting import until_gone
from etcdlock.agent.patience import ask_until_answered
from etcdlock.agent.residents import Asked, Resident, Residents
from etcdlock.agent.resuming import Departed, held_earlier
from etcdlock.agent.sightings import Sightings
from etcdlock.agent.witness import Witness
from etcdlock.errors import EtcdlockError, HeldElsewhere, NoSuchGuest, NotLocked, NotReady, NotTheOwner
from etcdlock.identity import Naming, stays_behind
from etcdlock.journal import note
from etcdlock.model import LockState, Owner, Resource, StoredDomain
from etcdlock.ports import Guard, Guest, Processes, Store
from etcdlock.transitions import Wanted

Work = Callable[[Asked], Awaitable[None]]

PAUSE_SECONDS = 0.05


class HostAgent:
    """Holds the locks of a host's guests. `run` must go on for as long as anything is held.

    `acquire_seconds` bounds what a door waits for; the door itself must wait a little longer, so that a yes which it
    passes on is one that was given. A `guard` beside our own goes on while no agent runs. Where there is a
    `ledger_store`, locks are changed through it: heartbeats and joining never wait behind them. A `keeper` is begun
    beside all else once the agent has joined. `namer` names what is known by its path alone. With a `witness` nothing
    is enforced.
    """

    def __init__(
        self,
        context: Context,
        /,
        *,
        processes: Processes,
        acquire_seconds: float,
        join_seconds: float,
        guard: Guard | None = None,
        ledger_store: Store | None = None,
        keeper: Callable[[Member], Coroutine[Any, Any, None]] | None = None,
        namer: Namer | None = None,
        witness: Witness | None = None,
    ) -> None:
        self._context = context
        self._keeper = keeper
        self._processes = processes
        self._namer = namer or Namer(Naming())
        self._acquire_seconds = acquire_seconds
        self._join_seconds = join_seconds
        self._enforcer = witness or Enforcer(context.clock, timing=context.timing)
        both = Together(self._enforcer, guard) if guard else self._enforcer
        self.member = Member(context, guard=both)
        ledger_context = replace(context, store=ledger_store) if ledger_store else context
        self.ledger = HostLedger(ledger_context, member=self.member, guard=both)
        self._observer = Observer(context)
        self._residents = Residents(processes)
        self.endings = Endings(self._enforcer, self.ledger)
        self._after = Aftermath(
            context, ledger=self.ledger, residents=self._residents, processes=processes, endings=self.endings
        )
        self.sightings = Sightings(ledger_context, begin=self._after.begin)
        self._carrying: list[asyncio.Task[None] | None] = []
        self._taking = 0
        self._is_complete = False
        self._stop = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self.ready = asyncio.Event()
        self.all_inherited = asyncio.Event()
        """Every guest of an earlier agent is armed here, or stopped: that agent's guard may go."""

    def find(self, uuid: UUID, /) -> Resident | None:
        """The guest that lives under a domain's UUID."""
        return self._residents.find(uuid)

    @property
    def residents(self) -> tuple[Resident, ...]:
        """The guests of this host, as far as anybody has told."""
        return tuple(self._residents)

    # --- beginning and ending --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Join or resume the earlier agent's session, then keep it until told to stop. Raises what joining raises."""
        self._ended.clear()
        try:
            async with asyncio.TaskGroup() as parts:
                parts.create_task(self._until_stopped())
                await self._begin_anew(parts)
        except BaseExceptionGroup as ended:
            cause = first_cause(ended)
            if not isinstance(cause, _Stopped):
                raise cause from ended
            await self._leave_if_idle()
        finally:
            self.ready.clear()
            self._after.close()
            self._ended.set()

    async def stop(self) -> None:
        """End `run` in order. Guests keep their locks, for the next agent of this boot to go on with."""
        self._stop.set()
        await self._ended.wait()

    async def _begin_anew(self, parts: asyncio.TaskGroup, /) -> None:
        await self.member.resume_or_join(until=self._until(self._join_seconds))
        self._after.open(parts)
        parts.create_task(self.member.keep(self.ledger))
        parts.create_task(self._enforcer.keep())
        parts.create_task(self._observer.keep())
        parts.create_task(Lookout(self._context, observer=self._observer).keep())
        if self._keeper is not None:
            parts.create_task(self._keeper(self.member))
        found = await held_earlier(self._context, until=self._until(self._join_seconds))
        names = frozenset((stored.record.pid, stored.record.pid_start) for stored in found)
        living = await self._residents.earlier(names)
        for stored in found:
            self._inherit(stored, living.get((stored.record.pid, stored.record.pid_start)))
        self._is_complete = True
        self.ready.set()
        parts.create_task(self._tell_inherited(set(self._carrying)))

    async def _until_stopped(self) -> NoReturn:
        """Wait for that; then until what was begun has been answered, and what was answered has been told etcd."""
        await self._stop.wait()
        self.ready.clear()
        until = self._until(self._acquire_seconds)
        while (self._taking or self._after.has_work) and self._context.clock.now() < until:
            await self._context.clock.sleep(PAUSE_SECONDS)
        raise _Stopped

    async def _leave_if_idle(self) -> None:
        """With nothing held the session ends; else it stands, for as long as its lease does, for the next agent."""
        if self._is_complete and not self._taking and self.ledger.holds_nothing:
            await self.member.leave(unreleased=frozenset(), until=self._until(self._acquire_seconds))
        else:
            note("session_left_standing", guests=len(self.residents))

    def _until(self, seconds: float, /) -> float:
        return self._context.clock.now() + seconds

    def _check_ready(self) -> None:
        if not self.ready.is_set():
            raise NotReady("this host's agent is starting or stopping", hint="try again")

    # --- what the doors say ----------------------------------------------------------------------------------------

    def present(self, owner: Owner, /) -> None:
        """A guest's process has started. Raises `NoSuchGuest`, or `Refused` if the domain has another process here."""
        self._check_ready()
        self.sightings.note(owner)
        if not self._residents.is_ending(owner):  # else it moves in with its first lock
            self._resident(owner)

    async def take(self, owner: Owner, resource: Resource, /) -> None:
        """The guest is about to run, or to open the resource; what it holds already is a success.

        A resource without a name is a disk that is known by its path. It is named here, in the guest's turn.
        Raises `HeldElsewhere`, `Superseded` where another host has claimed it, and whatever else says why not.
        """
        with answer_noted(self._context, owner.domain, resource):
            await self.ask(owner, lambda asked: self._name_and_take(asked, resource))

    async def ask(self, owner: Owner, work: Work, /) -> None:
        """Do in the guest's turn what is asked for it, again while etcd does not answer. What it raises is a no."""
        until = self._until(self._acquire_seconds)
        self._taking += 1
        try:
            resident = await self._alone(owner, until=until)
            async with resident.turn:
                await self._do_or_say_no(resident, work, until=until)
        finally:
            self._taking -= 1

    async def _do_or_say_no(self, resident: Resident, work: Work, /, *, until: float) -> None:
        """The last try begins early enough to have ended by then, also if its answer is lost and must be settled."""
        one = min(self._context.timing.try_timeout_seconds, self._acquire_seconds / 2)
        try:
            asked = Asked(resident, until=until - one, late=until)
            await ask_until_answered(self._context, lambda: self._do(asked, work), until=until - 2 * one)
        except EtcdlockError as error:
            await self._say_no(resident, error)
            raise

    async def _do(self, asked: Asked, work: Work, /) -> None:
        self._check_ready()
        if asked.resident.gone:
            raise NoSuchGuest(f"{asked.resident.owner} is gone")
        await work(asked)

    async def _name_and_take(self, asked: Asked, resource: Resource, /) -> None:
        locked = resource if resource.name else await self._named(asked.resident, resource)
        await self._take(asked, locked)
        known_paths.remember(asked.resident, resource, locked)

    async def _named(self, resident: Resident, resource: Resource, /) -> Resource:
        """As the guest holds it already, whatever has become of the path meanwhile; else by what is found there."""
        found = known_paths.known(resident, resource, among=self._resources_of(resident.uuid))
        if found is not None:
            return found
        name = await self._namer.name(resource.path)
        return replace(resource, lockspace=name.lockspace, name=name.name)

    def _resources_of(self, uuid: UUID, /) -> tuple[Resource, ...]:
        holding = self.ledger.holding(uuid)
        return () if holding is None else holding.stored.record.resources

    async def _take(self, asked: Asked, resource: Resource, /) -> None:
        resident, uuid, until = asked.resident, asked.resident.uuid, asked.until
        stored = await self._held(resident, resource, until=until)
        held = same(resource, among=stored.record.resources)
        runs = held is not None and held not in resident.closed
        if runs:
            await self.ledger.unpark(uuid, until=until)
        else:  # a disk that comes to a guest; if its vCPUs are stopped, they stay so
            await partitions.add(self.ledger, uuid, resource, until=until)
        asked.check_in_time(self._context.clock.now())
        resident.closed.discard(held)
        resident.rests = resident.rests and not runs
        self.tell(resident)

    def tell(self, resident: Resident, /) -> None:
        """A yes goes out: the guest may run. In its turn."""
        resident.arrives = False
        self.sightings.forget(resident.owner)
        self.ledger.told(resident.uuid)
        self._after.leave_behind(resident)

    def doubt(self, resident: Resident, /) -> None:
        """It runs, and may turn out to have its locks, or not: then nothing of ours stops it."""
        self._after.doubted(resident)

    async def _held(self, resident: Resident, resource: Resource, /, *, until: float) -> StoredDomain:
        """The domain's lock, taken with this resource if it is not held yet."""
        guest, context = resident.guest, self._context
        holding = self.ledger.holding(resident.uuid)
        if holding is not None:
            return holding.stored
        context.own_action(guest, resident.owner.domain)  # raises for a guest whose choice cannot be kept
        wanted = Wanted(
            resident.owner.domain,
            (resource,),
            context.fresh_id(),
            context.since(),
            pid=guest.pid,
            pid_start=guest.pid_start,
        )
        if not await self._processes.awaits_migration(guest, resident.owner.domain):
            return await self.ledger.enter(wanted, guest, until=until)
        run = await self.sightings.run_of(resident.owner)
        return await self.ledger.claim(wanted, guest, run=run, until=until)

    async def _say_no(self, resident: Resident, error: EtcdlockError, /) -> None:
        """What rested rests on, also in etcd; what was claimed goes back; who is silent is watched from now on."""
        if not resident.arrives:  # else that is for whoever has been told that it may arrive
            await self.ledger.hand_back(resident.uuid)
        if resident.rests:
            self.ledger.rest(resident.uuid)  # what was written for it lets nobody run who asks again
            self._after.rests(resident)
        if isinstance(error, HeldElsewhere):
            silent = (blocker.owner for blocker in error.blockers if not blocker.alive)
            self._observer.follow_too(frozenset(owner for owner in silent if owner is not None))

    def give_up(self, owner: Owner, resource: Resource, /) -> None:
        """The guest's vCPUs have stopped, or if it has closed the resource, that is gone from it. In whatever mode.

        Raises `NotLocked` and `NotTheOwner`.
        """
        self._check_ready()
        resident, held = self._residents.find(owner.domain.uuid), self._resources_of(owner.domain.uuid)
        locked = self._given_up(resident, resource, held) if resident is not None else []
        if resident is None or not locked:
            raise NotLocked(f"{resource} is not locked for domain {owner.domain}")
        if resident.owner.pid != owner.pid:
            raise NotTheOwner(f"{resource} is locked for {resident.owner}, not for process {owner.pid}")
        opened = replace(locked[0], path=resource.path) if resource.path else locked[0]
        self._after.given_up(resident, locked, opened=opened)

    def _given_up(self, resident: Resident, resource: Resource, held: tuple[Resource, ...], /) -> list[Resource]:
        """By what it was called when it was taken; nothing is looked at, for whoever gives up waits without end."""
        if resource.name:
            return named(resource, among=held)
        found = known_paths.given(resident, resource, among=held)
        if found or self._namer.looks:
            return found
        (name,) = (one.name for one in self._namer.identified((resource.path,)))
        return named(replace(resource, lockspace=name.lockspace, name=name.name), among=held)

    def move_out(self, resident: Resident, /) -> None:
        """It holds nothing, and is no guest of this host any more, though its process lives."""
        self._residents.remove(resident)
        resident.left.set()

    def departed(self, owner: Owner, /) -> None:
        """The guest's own connection has ended. Whether it is gone, only its process tells, and that is watched."""
        known = self._residents.find(owner.domain.uuid) is not None
        note("connection_ended", domain=owner.domain, pid=owner.pid, known=known)

    # --- guests ----------------------------------------------------------------------------------------------------

    async def _alone(self, owner: Owner, /, *, until: float) -> Resident:
        """The guest, once what an earlier process of its domain held has been given back."""
        while self._residents.is_ending(owner) and self._context.clock.now() < until:
            self._check_ready()
            await self._context.clock.sleep(PAUSE_SECONDS)
        return self._resident(owner)

    def _resident(self, owner: Owner, /) -> Resident:
        self._check_ready()
        known = self._residents.of(owner)
        return known if known is not None else self._settle_in(Resident(owner, self._processes.attach(owner.pid)))

    def _settle_in(self, resident: Resident, /) -> Resident:
        self._residents.add(resident)
        who = {"domain": resident.owner.domain, "uuid": resident.uuid}
        note("guest_known", level=logging.DEBUG, **who, pid=resident.guest.pid, pid_start=resident.guest.pid_start)
        self._after.follow(resident)
        return resident

    def _inherit(self, stored: StoredDomain, guest: Guest | None, /) -> None:
        """Go on with a guest of an earlier agent of this boot; if it has ended meanwhile, its locks are given back."""
        record = stored.record
        resident = Resident(
            Owner(record.domain, record.pid),
            guest or Departed(record.pid, record.pid_start),
            rests=record.state is LockState.PARKED,
        )
        here, boot = self._context.host, self._context.machine.boot
        ours = (one for one in record.resources if not stays_behind(one, host=here, boot=boot))
        known_paths.remember_all(resident, ours)
        self.ledger.inherit(stored, resident.guest)
        if guest is not None:
            self._carrying.append(self._after.begin(self._carry_on(resident)))  # its turn is the first
        self._settle_in(resident)

    async def _tell_inherited(self, carrying: set[asyncio.Task[None] | None], /) -> None:
        begun = {task for task in carrying if task is not None}
        if begun:
            await asyncio.wait(begun)
        self.all_inherited.set()

    async def _carry_on(self, resident: Resident, /) -> None:
        """Ask for as long as its time lasts: by the earlier agent's guard, which watches it until another does."""
        until = self.member.session.stop_at(self._context.timing)
        async with resident.turn:
            try:
                await ask_until_answered(self._context, lambda: self._adopt(resident, until=until), until=until)
                self._after.leave_behind(resident)
            except EtcdlockError as error:
                note("not_adopted", level=logging.ERROR, domain=resident.owner.domain, error=error)
                resident.guest.kill()  # the earlier agent's guard stays until it is gone: no other has taken it in
            else:
                return
        await until_gone(resident.guest, self._context.clock)

    async def _adopt(self, resident: Resident, /, *, until: float) -> None:
        if not resident.gone:
            await self.ledger.adopt(resident.uuid, until=until)


class _Stopped(Exception):
    """Ends the task group."""
