"""The locks of a host's guests: beyond taking and giving back, they grow, shrink, stop, go on, and change hosts.

A destination claims only the run of its domain that it began to take in: each time that a guest is let run, also after
a stop that etcd was never told of, the record says so.

Guaranteed, besides what `Ledger` guarantees: a change is sent only for a domain that names the session it is sent
under, and only when every earlier outcome of that domain is known; so nothing is answered with yes while the record may
name a session whose end might have been proven, or may yet be parked.

A guest that rests, because its vCPUs have stopped, stays armed like any other: what runs it may let it run on without
asking, as QEMU does after a migration that fails at its very end. A guest whose domain has gone to another is killed,
with one exception: one that rests and whose domain was claimed. A claim comes from a destination that has all of the
guest's memory, and from then on the source runs on only if libvirt lets it, which asks; it may get the domain back if
the destination never ran. Such a guest stays armed under the session that its domain named, and ends with it. Claim and
takeover are told apart by what a takeover needs: the obituary of that session.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn
from uuid import UUID

from etcdlock import transitions
from etcdlock.agent.context import Context
from etcdlock.agent.courier import Answer
from etcdlock.agent.judging import check_up_to_date, is_back, same, superseded
from etcdlock.agent.ledger import MOST_ATTEMPTS, Holding, Ledger
from etcdlock.agent.member import Member
from etcdlock.agent.proving import proofs_against
from etcdlock.agent.strays import Stray
from etcdlock.agent.waiting import until_changed
from etcdlock.errors import EtcdlockError, NotLocked, Refused, SessionLost, Superseded, Unreachable
from etcdlock.journal import note
from etcdlock.model import LockState, Resource, StoredDomain
from etcdlock.ports import Get, Guard, Guest, KeyRange, Txn, TxnResult
from etcdlock.records import decode_domain, decode_first, decode_resource
from etcdlock.session import Session
from etcdlock.takeover import Obstacles, extend, read_obstacles
from etcdlock.transitions import Transition, Wanted

Build = Callable[[Session, StoredDomain], Transition]

class HostLedger(Ledger):
    """All locks under the sessions of a host's agent."""

    def __init__(self, context: Context, /, *, member: Member, guard: Guard) -> None:
        super().__init__(context, member=member, guard=guard)
        self._gone_to_others: dict[UUID, Holding] = {}
        self._resting: set[UUID] = set()
        self._unasked: set[UUID] = set()
        self._strays: dict[UUID, Stray] = {}

    @property
    def holds_nothing(self) -> bool:
        """Whether nothing of this program is in etcd, or may yet come to be there, but its session."""
        return not self._held and not self.unsettled

    # --- guests that rest ------------------------------------------------------------------------------------------

    def rest(self, uuid: UUID, /) -> None:
        """The guest's vCPUs have stopped. It stays armed: nobody has promised that they do not go on by themselves."""
        if uuid in self._held:
            self._resting.add(uuid)

    async def park(self, uuid: UUID, /, *, until: float) -> StoredDomain:
        """Say so in etcd, so that the destination of a migration may claim the domain. Raises `Superseded`."""
        async with self._turn(uuid):
            stored = await self._current(uuid, until=until)
            if stored.record.state is LockState.PARKED:
                return stored
            stored = await self._change(uuid, self._by(transitions.park), until=until)
            note("parked", domain=stored.record.domain, token=stored.token)
            return stored

    async def unpark(self, uuid: UUID, /, *, until: float) -> StoredDomain:
        """The guest's vCPUs are about to run again. Raises `Superseded` if the domain has been claimed meanwhile.

        One that runs already is told yes. One that has stopped begins another run, and the record says so, though it
        may never have said that it was parked: a destination may have all of its memory as it was until now.
        """
        async with self._turn(uuid):
            before = await self._current(uuid, until=until)
            is_frozen = self.custody.is_frozen(self._held[uuid].guest)  # perhaps not let go on yet
            if uuid not in self._resting | self._unasked and not is_frozen:
                return self._in_time(uuid)
            self._member.acquiring()
            stored = await self._change(uuid, self._by(transitions.unpark), until=until)
            if before.record.state is LockState.PARKED:
                note("unparked", domain=stored.record.domain, token=stored.token)
            guest, session = self._held[uuid].guest, stored.record.owner.session
            await self.custody.arm(guest, stored.record, session=session)  # is it so still?
            stored = self._in_time(uuid)
            self._resting.discard(uuid)
            self._unasked.discard(uuid)
            return stored

    def _by(self, rewrite: Callable[..., Transition], /) -> Build:
        return lambda session, old: rewrite(self._keys, session, old, request=self._context.fresh_id())

    # --- disks that come and go ------------------------------------------------------------------------------------

    async def add(self, uuid: UUID, resource: Resource, /, *, until: float) -> StoredDomain:
        """One more resource for a domain held; one that it has already is a success. Raises `HeldElsewhere`."""
        async with self._turn(uuid):
            for _ in range(MOST_ATTEMPTS):
                stored = await self._current(uuid, until=until)
                if same(resource, among=stored.record.resources) is not None:
                    return self._in_time(uuid)
                session = self._member.acquiring()
                request = self._context.fresh_id()
                change = transitions.add_resource(self._keys, session, stored, resource, request=request)
                answer = await self._courier.send(change, session=session, until=until)
                took = await self._took(uuid, session, answer)
                if not took and answer.result is not None and answer.result.replies[2]:
                    await self._take_from_the_dead(uuid, resource, answer.result, until=until)
        raise Refused(f"{resource}: its locks changed faster than they could be taken; nothing was locked")

    async def _take_from_the_dead(self, uuid: UUID, resource: Resource, refused: TxnResult, /, *, until: float) -> None:
        context, session, stored = self._context, self._member.acquiring(), self._held[uuid].stored
        rivals = tuple(decode_resource(found) for found in refused.replies[2])
        obstacles = Obstacles(refused.revision, session.epoch, None, rivals)
        evidence = await proofs_against(context, obstacles)
        change = extend(
            context.keys,
            session,
            stored,
            resource,
            obstacles=obstacles,
            evidence=evidence,
            request=context.fresh_id(),
            victim_request=context.fresh_id(),
        )
        if await self._took(uuid, session, await self._courier.send(change, session=session, until=until)):
            proofs = ",".join(sorted({str(obituary.proof) for obituary in evidence.obituaries.values()}))
            note("taken_over", level=logging.WARNING, domain=stored.record.domain, resource=resource, proof=proofs)

    async def remove(self, uuid: UUID, resource: Resource, /, *, until: float) -> StoredDomain:
        """One resource less; the guest must have closed it."""
        async with self._turn(uuid):
            stored = await self._current(uuid, until=until)
            if resource not in stored.record.resources:
                return stored
            return await self._change(
                uuid,
                lambda session, old: transitions.remove_resource(
                    self._keys, session, old, resource, request=self._context.fresh_id()
                ),
                until=until,
            )

    # --- guests that move, and agents that come back ---------------------------------------------------------------

    async def enter(self, wanted: Wanted, guest: Guest, /, *, until: float) -> StoredDomain:
        """The domain's lock, for a guest that has none here. Raises what `acquire` raises, and `Superseded`."""
        if wanted.domain.uuid in self._gone_to_others:
            return await self._regain(wanted.domain.uuid)
        return await self.acquire(wanted, guest, until=until)

    async def claim(self, wanted: Wanted, guest: Guest, /, *, run: str | None, until: float) -> StoredDomain:
        """For a guest that migrates in: take the domain that its other host has parked, or wait until it has.

        `run` is the run of the domain whose memory it takes in: "" if the domain had no record when that began, None if
        that is not known. What nobody held then and nobody holds now is acquired. Raises `HeldElsewhere` if it is not
        parked until then, and `Refused` if the guest's memory is out of date, or may be.
        """
        uuid = wanted.domain.uuid
        if uuid in self._gone_to_others:
            return await self._regain(uuid)
        async with self._turn(uuid):
            await self._settle_first(uuid)
            while self._context.clock.now() < until:
                session = self._member.acquiring()
                found, revision = await self._look(uuid)
                check_up_to_date(wanted.domain, found, run=run)
                if found is None:
                    break
                if found.record.state is not LockState.PARKED:
                    await until_changed(self._context, self._keys.domain(uuid), after=revision, until=until)
                elif await self._claimed(wanted, guest, found, session, until=until):
                    return self._in_time(uuid)
            else:
                await self._refuse(wanted)
        return await self.acquire(wanted, guest, until=until)

    async def _refuse(self, wanted: Wanted, /) -> NoReturn:
        """Raises `HeldElsewhere` with whoever has not parked it. Nothing is taken over for a guest that migrates in."""
        reads = transitions.acquire(self._keys, self._member.session, wanted).txn.failure
        await proofs_against(self._context, read_obstacles(await self._context.look(Txn((), reads))))
        raise Refused(
            f"domain {wanted.domain}: its host has ended, or gave it up, while it migrated",
            hint="start it anew: what this guest has in memory is not known to be complete",
        )

    async def _claimed(
        self, wanted: Wanted, guest: Guest, found: StoredDomain, session: Session, /, *, until: float
    ) -> bool:
        change = transitions.claim(self._keys, session, found, wanted)
        answer = await self._arm_and_send(change, guest, session=session, until=until)
        if not answer.applied or answer.stored is None:
            self._courier.keep_in_step(session, answer)
            return False
        self._held[change.uuid] = Holding(answer.stored, guest, source=found)
        note("claimed", domain=wanted.domain, source=found.record.owner, token=answer.stored.token)
        return True

    def told(self, uuid: UUID, /) -> None:
        """A yes goes out: from now on the guest may run, and what was claimed for it cannot go back."""
        self._held[uuid] = replace(self._held[uuid], source=None)

    async def hand_back(self, uuid: UUID, /) -> None:
        """A no goes out: what was claimed goes back to its source now, or if etcd is away with the guest's end."""
        async with self._turn(uuid):
            holding = self._held.get(uuid)
            if holding is None or holding.source is None:
                return
            try:
                await self._release(uuid, until=self._context.clock.now())
            except EtcdlockError as error:
                note("not_handed_back", level=logging.WARNING, domain=holding.stored.record.domain, error=error)

    async def current(self, uuid: UUID, /) -> StoredDomain:
        """What is held of a domain here, also if it was claimed and has come back. Raises `NotLocked`, `Superseded`."""
        holding = self._held.get(uuid)
        if holding is None and uuid not in self._gone_to_others:
            raise NotLocked(f"domain {uuid} is not locked for any guest of this host")
        return holding.stored if holding is not None else await self._regain(uuid)

    async def _regain(self, uuid: UUID, /) -> StoredDomain:
        """What has gone to another comes back only by being handed back: parked, and with the token it had here."""
        async with self._turn(uuid):
            lost, (found, _) = self._gone_to_others[uuid], await self._look(uuid)
            if found is None or not is_back(found, was=lost.stored):
                raise superseded(lost.stored, found=found)
            del self._gone_to_others[uuid]
            self._held[uuid] = holding = Holding(found, lost.guest)
            self._resting.add(uuid)
            if self._was_robbed(holding):
                raise superseded(holding.stored, found=None)
            note("regained", domain=found.record.domain, token=found.token)
            return found

    async def _supersede(self, uuid: UUID, holding: Holding, /) -> None:
        self._gone_to_others[uuid] = holding
        await super()._supersede(uuid, holding)

    async def _stands_still(self, uuid: UUID, holding: Holding, /) -> bool:
        """It rests, and nobody has proven the end of the session that it is armed under: its domain was claimed.

        If etcd does not tell, it has until that session's deadline, which is before anybody can prove its silence.
        """
        if uuid not in self._resting:
            return False
        proof = KeyRange(self._keys.obituary(holding.stored.record.owner))
        try:
            return not (await self._context.look(Txn((), (Get(proof),)))).replies[0]
        except EtcdlockError as error:
            note("proof_not_asked", level=logging.WARNING, domain=holding.stored.record.domain, error=error)
            return True

    async def forsake(self, uuid: UUID, guest: Guest, /) -> None:
        """It runs without locks, as before they were asked for; nothing of ours stops it, unless another has them."""
        if uuid not in self._gone_to_others:
            await self._disarm(guest)

    def inherit(self, stored: StoredDomain, guest: Guest, /) -> None:
        """Hold what an earlier agent of this boot has held. Its guest may have stopped while no agent was there."""
        self._held[stored.record.domain.uuid] = Holding(stored, guest)
        self.custody.inherit(guest, stored.record)
        self._unasked.add(stored.record.domain.uuid)
        if stored.record.state is LockState.PARKED:
            self._resting.add(stored.record.domain.uuid)

    async def adopt(self, uuid: UUID, /, *, until: float) -> None:
        """Go on with what was inherited, for a guest that still lives. Raises what `unpark` raises."""
        async with self._turn(uuid):
            holding, session = self._held.get(uuid), self._member.session.ref
            if holding is not None and holding.stored.record.owner == session:
                await self.custody.arm(holding.guest, holding.stored.record, session=session.session)
            stored = await self._current(uuid, until=until)
        note("adopted", domain=stored.record.domain, pid=stored.record.pid)

    # --- parts -----------------------------------------------------------------------------------------------------

    async def _current(self, uuid: UUID, /, *, until: float) -> StoredDomain:
        """The domain as it is known to be held, carried over into the latest session first.

        Raises `Superseded`, `SessionLost`, and what settling an unknown outcome raises; `Unreachable` where that has
        shown that it was given back, as for a guest that was told no: it can be taken anew.
        """
        was_held = uuid in self._held
        await self._settle_first(uuid)
        if was_held and uuid not in self._held and uuid not in self._gone_to_others:
            raise Unreachable(f"domain {uuid}: what was locked of it before has been given back meanwhile")
        await self._carry_one(uuid, until=until)
        holding = self._held.get(uuid)
        if holding is None:
            if lost := self._gone_to_others.get(uuid):
                raise superseded(lost.stored, found=None)
            raise Superseded(f"domain {uuid} is not held by this host any more")
        if self._was_robbed(holding):
            raise superseded(holding.stored, found=None)
        if holding.stored.record.owner != self._member.session.ref:
            raise SessionLost(f"domain {uuid} could not be carried over into session {self._member.session.ref} yet")
        return holding.stored

    async def _change(self, uuid: UUID, build: Build, /, *, until: float) -> StoredDomain:
        for _ in range(MOST_ATTEMPTS):
            stored, session = await self._current(uuid, until=until), self._member.session
            answer = await self._courier.send(build(session, stored), session=session, until=until)
            if await self._took(uuid, session, answer):
                return self._held[uuid].stored
            if self._member.session.lost:
                raise Unreachable(f"session {session.ref} is gone; it is tried again when it has joined anew")
        raise Refused(f"domain {uuid}: its record changed faster than it could be rewritten", hint="try again")

    async def _took(self, uuid: UUID, session: Session, answer: Answer, /) -> bool:
        """Take in an answer; whether it was applied. Raises `Superseded` if another has the domain now."""
        holding, stored = self._held[uuid], answer.stored
        if stored is None or not self._is_ours(stored, holding):
            await self._supersede(uuid, holding)
            raise superseded(holding.stored, found=stored)
        self._held[uuid] = replace(holding, stored=stored)
        if not answer.applied:
            self._courier.keep_in_step(session, answer)
        return answer.applied

    def _in_time(self, uuid: UUID, /) -> StoredDomain:
        """A yes, if it still comes in time; else the enforcer stops what runs."""
        stored, session = self._held[uuid].stored, self._member.session
        now = self._context.clock.now()
        if stored.record.owner == session.ref and session.may_answer_yes(now, self._context.timing):
            return stored
        raise SessionLost(f"session {session.ref} could not be proven any more when the answer came")

    async def _look(self, uuid: UUID, /) -> tuple[StoredDomain | None, int]:
        looked = await self._context.look(Txn((), (Get(KeyRange(self._keys.domain(uuid))),)))
        return decode_first(looked.replies[0], decode_domain), looked.revision

    async def _put_back(self, uuid: UUID, /, *, until: float) -> None:
        """Whoever has started the guest is told no, does not let it run, and decides what becomes of it."""
        self.rest(uuid)
        await self._release(uuid, until=until)
        self._resting.discard(uuid)

    async def bury(self, uuid: UUID, guest: Guest, /, *, until: float) -> None:
        """The guest is gone: give back whatever it held. As `release` otherwise."""
        await self.release(uuid, until=until)
        self._resting.discard(uuid)
        self._unasked.discard(uuid)
        if lost := self._gone_to_others.pop(uuid, None):
            self._strays[uuid] = Stray(lost)
        await self._disarm(guest)

    async def _released(self, uuid: UUID, holding: Holding, session: Session, answer: Answer, /) -> None:
        await super()._released(uuid, holding, session, answer)
        if uuid not in self._held and answer.stored is not None and not answer.applied:
            self._strays[uuid] = Stray(holding, answer.stored.mod_revision)

    async def proven(self) -> None:
        """Also give back what has been handed back to a guest that had ended by then."""
        await super().proven()
        now = self._context.clock.now()
        for uuid, stray in [(uuid, stray) for uuid, stray in self._strays.items() if now >= stray.due]:
            try:
                await self._look_for(uuid, stray)
            except EtcdlockError as error:
                note("stray_left", level=logging.WARNING, domain=uuid, error=error)

    async def _look_for(self, uuid: UUID, stray: Stray, /) -> None:
        async with self._turn(uuid):
            if self._strays.get(uuid) is not stray:  # seen to after an earlier heartbeat, which etcd was slow to answer
                return
            found, _ = await self._look(uuid)
            if found is not None and uuid not in self._held:
                if not is_back(found, was=stray.lost.stored) and stray.claimed in (0, found.mod_revision):
                    self._strays[uuid] = stray.later(self._context.clock.now(), claimed=found.mod_revision)
                    return
                if is_back(found, was=stray.lost.stored) and not await self._given_back(found):
                    return
            if self._strays.get(uuid) is stray:  # else another guest of the domain has ended meanwhile
                del self._strays[uuid]

    async def _given_back(self, found: StoredDomain, /) -> bool:
        session = self._member.usable()
        change = transitions.release(self._keys, session, found)
        answer = await self._courier.send(change, session=session, until=self._context.clock.now())
        if not answer.applied:
            self._courier.keep_in_step(session, answer)
        return answer.applied
