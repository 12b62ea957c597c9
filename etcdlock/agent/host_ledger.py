"""The locks of a host's guests: beyond taking and giving back, they grow, shrink, stop, go on, and change hosts.

Guaranteed, besides what `Ledger` guarantees: a change is sent only for a domain that names the session it is sent
under, so nothing is answered with yes while the record still names a session whose end might have been proven. A
guest whose vCPUs are stopped (`rest`) is not armed; it is armed again before the transaction that lets it run is sent.

A guest that runs and is found to have been superseded is killed. One that rests is not: it cannot run without a yes.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from etcdlock.agent.context import undisturbed
from etcdlock.agent.courier import Answer
from etcdlock.agent.ledger import MOST_ATTEMPTS, Holding, Ledger, is_ours
from etcdlock.agent.proving import declare_reboots, gather
from etcdlock.agent.waiting import until_changed
from etcdlock.errors import HeldElsewhere, Refused, SessionLost, Superseded, Unreachable
from etcdlock.explain import describe_blockers
from etcdlock.journal import note
from etcdlock.model import LockState, Resource, SessionRef, StoredDomain
from etcdlock.ports import Get, Guest, KeyRange, Txn, TxnResult
from etcdlock.records import decode_domain, decode_first, decode_resource
from etcdlock.session import Session
from etcdlock.takeover import Obstacles, blockers, extend
from etcdlock.transitions import Transition, Wanted, add_resource, claim, park, remove_resource, unpark

Build = Callable[[Session, StoredDomain], Transition]


class HostLedger(Ledger):
    """All locks under the sessions of a host's agent."""

    # --- guests that rest ------------------------------------------------------------------------------------------

    async def rest(self, uuid: UUID, /) -> None:
        """The guest's vCPUs have stopped: it may outlive its deadline, since it must unpark before it runs again."""
        holding = self._held.get(uuid)
        if holding is not None and uuid not in self._resting:
            self._resting.add(uuid)
            await self._disarm(holding.guest)

    async def park(self, uuid: UUID, /, *, until: float) -> StoredDomain:
        """Say so in etcd, so that the destination of a migration may claim the domain. Raises `Superseded`."""
        async with self._turns[uuid]:
            stored = await self._current(uuid, until=until)
            if stored.record.state is LockState.PARKED or uuid not in self._resting:
                return stored
            return await self._change(
                uuid, lambda session, old: park(self._keys, session, old, request=self._context.fresh_id()), until=until
            )

    async def unpark(self, uuid: UUID, /, *, until: float) -> StoredDomain:
        """The guest's vCPUs are about to run again. Raises `Superseded` if the domain has been claimed meanwhile."""
        async with self._turns[uuid]:
            stored = await self._current(uuid, until=until)
            guest = self._held[uuid].guest
            await self._guard.arm(guest, session=self._member.acquiring().ref.session)
            try:
                if stored.record.state is LockState.PARKED:
                    await self._change(uuid, self._unpark, until=until)
                stored = self._in_time(uuid)
            except BaseException:
                await undisturbed(self._disarm(guest))  # it rests on
                raise
            self._resting.discard(uuid)
            return stored

    def _unpark(self, session: Session, stored: StoredDomain, /) -> Transition:
        return unpark(self._keys, session, stored, request=self._context.fresh_id())

    # --- disks that come and go ------------------------------------------------------------------------------------

    async def add(self, uuid: UUID, resource: Resource, /, *, until: float) -> StoredDomain:
        """One more resource for a domain held; one that it has already is a success. Raises `HeldElsewhere`."""
        async with self._turns[uuid]:
            for _ in range(MOST_ATTEMPTS):
                stored = await self._current(uuid, until=until)
                if resource in stored.record.resources:
                    return self._in_time(uuid)
                session = self._member.acquiring()
                request = self._context.fresh_id()
                change = add_resource(self._keys, session, stored, resource, request=request)
                answer = await self._courier.send(change, session=session, until=until)
                if not self._took(uuid, session, answer) and answer.result is not None and answer.result.replies[2]:
                    await self._take_from_the_dead(uuid, resource, answer.result, until=until)
        raise Refused(f"{resource}: its locks changed faster than they could be taken; nothing was locked")

    async def _take_from_the_dead(self, uuid: UUID, resource: Resource, refused: TxnResult, /, *, until: float) -> None:
        context, session, stored = self._context, self._member.acquiring(), self._held[uuid].stored
        rivals = tuple(decode_resource(found) for found in refused.replies[2])
        obstacles = Obstacles(refused.revision, session.epoch, None, rivals)
        evidence = await gather(context, obstacles)
        if await declare_reboots(context, evidence):
            evidence = await gather(context, obstacles)
        in_the_way = blockers(obstacles, evidence)
        if in_the_way:
            text = describe_blockers(in_the_way, timing=context.timing, needs=context.contract.takeover_needs)
            raise HeldElsewhere(text, blockers=in_the_way, revision=obstacles.revision)
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
        self._took(uuid, session, await self._courier.send(change, session=session, until=until))

    async def remove(self, uuid: UUID, resource: Resource, /, *, until: float) -> StoredDomain:
        """One resource less; the guest must have closed it."""
        async with self._turns[uuid]:
            stored = await self._current(uuid, until=until)
            if resource not in stored.record.resources:
                return stored
            return await self._change(
                uuid,
                lambda session, old: remove_resource(
                    self._keys, session, old, resource, request=self._context.fresh_id()
                ),
                until=until,
            )

    # --- guests that move, and agents that come back ---------------------------------------------------------------

    async def claim(self, wanted: Wanted, guest: Guest, /, *, until: float) -> StoredDomain:
        """For a guest that migrates in: take the domain that its other host has parked, or wait until it has.

        What nobody holds is acquired. Raises `HeldElsewhere` if it is not parked until then.
        """
        uuid = wanted.domain.uuid
        async with self._turns[uuid]:
            await self._settle_first(uuid)
            while self._context.clock.now() < until:
                session = self._member.acquiring()
                looked = await self._context.look(Txn((), (Get(KeyRange(self._keys.domain(uuid))),)))
                found = decode_first(looked.replies[0], decode_domain)
                if found is None:
                    break
                if found.record.state is not LockState.PARKED:
                    await until_changed(self._context, self._keys.domain(uuid), after=looked.revision, until=until)
                elif await self._claimed(wanted, guest, found, session, until=until):
                    return self._in_time(uuid)
        return await self.acquire(wanted, guest, until=until)

    async def _claimed(
        self, wanted: Wanted, guest: Guest, found: StoredDomain, session: Session, /, *, until: float
    ) -> bool:
        await self._guard.arm(guest, session=session.ref.session)
        answer = await self._courier.send(claim(self._keys, session, found, wanted), session=session, until=until)
        if not answer.applied or answer.stored is None:
            self._courier.keep_in_step(session, answer)
            return False
        self._held[wanted.domain.uuid] = Holding(answer.stored, guest)
        note("claimed", domain=wanted.domain, source=found.record.owner, token=answer.stored.token)
        return True

    async def adopt(self, stored: StoredDomain, guest: Guest, /, *, until: float) -> None:
        """Go on with a domain that an earlier agent of this boot has held for a guest that still lives."""
        uuid, before = stored.record.domain.uuid, stored.record.owner
        async with self._turns[uuid]:
            self._held[uuid] = Holding(stored, guest)
            if stored.record.state is LockState.PARKED:
                self._resting.add(uuid)
            elif before == self._member.session.ref:
                await self._guard.arm(guest, session=before.session)
            await self._current(uuid, until=until)
        note("adopted", domain=stored.record.domain, pid=guest.pid, before=before)

    # --- parts -----------------------------------------------------------------------------------------------------

    async def _current(self, uuid: UUID, /, *, until: float) -> StoredDomain:
        """The domain as we hold it, carried over into the latest session first. Raises `Superseded`, `SessionLost`."""
        await self._carry_one(uuid, until=until)
        holding = self._held.get(uuid)
        if holding is None:
            raise Superseded(f"domain {uuid} is not held by this host any more")
        if holding.stored.record.owner != self._member.session.ref:
            raise SessionLost(f"domain {uuid} could not be carried over into session {self._member.session.ref} yet")
        return holding.stored

    async def _change(self, uuid: UUID, build: Build, /, *, until: float) -> StoredDomain:
        for _ in range(MOST_ATTEMPTS):
            stored, session = await self._current(uuid, until=until), self._member.session
            answer = await self._courier.send(build(session, stored), session=session, until=until)
            if self._took(uuid, session, answer):
                return self._held[uuid].stored
            if self._member.session.lost:
                raise Unreachable(f"session {session.ref} is gone; it is tried again when it has joined anew")
        raise Refused(f"domain {uuid}: its record changed faster than it could be rewritten", hint="try again")

    def _took(self, uuid: UUID, session: Session, answer: Answer, /) -> bool:
        """Take in an answer; whether it was applied. Raises `Superseded` if another has the domain now."""
        holding, stored = self._held[uuid], answer.stored
        if stored is None or not is_ours(stored, holding, session):
            self._supersede(uuid, holding)
            raise Superseded(f"domain {holding.stored.record.domain} has gone to another: {_who(stored)}")
        self._held[uuid] = Holding(stored, holding.guest)
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

    async def bury(self, uuid: UUID, guest: Guest, /, *, until: float) -> None:
        """The guest is gone: give back whatever it held. As `release` otherwise."""
        await self.release(uuid, until=until)
        self._resting.discard(uuid)
        await self._disarm(guest)


def _who(stored: StoredDomain | None) -> SessionRef | str:
    return "its lock is gone" if stored is None else stored.record.owner
