"""The locks of this program's guests: taken, carried over into a new session, given back; never guessed.

Guaranteed: a guest is armed while the transaction that takes its locks is under way, nobody is told yes before both
are done, and it is disarmed only after its locks are known to be released. Until it is told yes a guest does not run:
it waits behind its gate, or with its vCPUs stopped. A lost answer is settled by a barrier before anybody is told
anything; what could not be settled stays on a list, is settled first thing when etcd answers, and until then is neither
a yes nor a no. A yes is given only while the clock, read after the commit, is before the session's `stop_at`.

One transition of a domain at a time; the ledger's own records are a cache that every transaction checks again.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from uuid import UUID
from weakref import WeakValueDictionary

from etcdlock.agent.context import Context, undisturbed
from etcdlock.agent.courier import Answer, Courier, Sent
from etcdlock.agent.custody import Custody
from etcdlock.agent.member import Member
from etcdlock.agent.parting import until_gone
from etcdlock.agent.proving import proofs_against
from etcdlock.errors import EtcdlockError, GuardLost, Refused, SessionLost, Superseded, Unreachable
from etcdlock.journal import note
from etcdlock.model import SessionRef, StoredDomain
from etcdlock.ports import Guard, Guest
from etcdlock.session import Session
from etcdlock.takeover import Obstacles, read_obstacles, take_over
from etcdlock.transitions import Transition, Wanted, acquire, hand_back, rejoin, release

MOST_ATTEMPTS = 16
"""How often an acquire is tried anew because something moved between look and transaction."""

PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Holding:
    """A domain locked for a guest of ours. `source` is what it was claimed from, until the guest may run."""

    stored: StoredDomain
    guest: Guest
    source: StoredDomain | None = None


class Ledger:
    """All locks under one member's sessions."""

    def __init__(self, context: Context, /, *, member: Member, guard: Guard) -> None:
        self._context = context
        self._member = member
        self._guard = guard
        self.custody = Custody(guard, action=context.on_session_lost, own=context.own_action)
        self._held: dict[UUID, Holding] = {}
        self._courier = Courier(context, member=member)
        self._keys = context.keys
        self._turns: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    def holding(self, uuid: UUID, /) -> Holding | None:
        """What is held of a domain, as far as this program knows."""
        return self._held.get(uuid)

    @property
    def unsettled(self) -> bool:
        """Whether an outcome is still unknown."""
        return bool(self._courier.unsettled)

    @property
    def outcomes_unsettled(self) -> int:
        """How many outcomes are still unknown."""
        return len(self._courier.unsettled)

    def is_unsettled(self, uuid: UUID, /) -> bool:
        """Whether it may yet turn out that a domain was taken, or changed."""
        return any(sent.uuid == uuid for sent in self._courier.unsettled)

    @property
    def unreleased(self) -> frozenset[SessionRef]:
        """The sessions, this or earlier ones, that locks of ours in etcd name, or may name."""
        named = {holding.stored.record.owner for holding in self._held.values()}
        return frozenset(named | self._courier.sessions)

    def _turn(self, uuid: UUID, /) -> asyncio.Lock:
        """Orders the transitions of a domain; it lives for as long as anybody has it or waits for it."""
        turn = self._turns.get(uuid)
        if turn is None:
            turn = self._turns[uuid] = asyncio.Lock()
        return turn

    # --- taking ----------------------------------------------------------------------------------------------------

    async def acquire(self, wanted: Wanted, guest: Guest, /, *, until: float) -> StoredDomain:
        """Lock the domain and all its resources for the guest, or nothing.

        Raises `HeldElsewhere` with everything that is in the way, `SessionLost` where no yes can be given in time,
        `OutcomeUnknown` if that is still so at `until`, `Unreachable`, or another `Refused`.
        """
        async with self._turn(wanted.domain.uuid):
            await self._settle_first(wanted.domain.uuid)
            stored = await self._take(wanted, guest, until=until)
            self._held[wanted.domain.uuid] = Holding(stored, guest)
            if stored.record.owner != self._member.session.ref:
                await self._carry_one(wanted.domain.uuid, until=until)
            return await self._answer_in_time(wanted.domain.uuid, until=until)

    async def _take(self, wanted: Wanted, guest: Guest, /, *, until: float) -> StoredDomain:
        for _ in range(MOST_ATTEMPTS):
            session = self._member.acquiring()
            answer = await self._arm_and_send(
                acquire(self._keys, session, wanted), guest, session=session, until=until
            )
            if not answer.applied and answer.result is not None:
                obstacles = read_obstacles(answer.result)
                if self._out_of_step(session, obstacles):
                    continue
                answer = await self._try_takeover(session, wanted, obstacles, until=until)
            if answer.applied and answer.stored is not None:
                return answer.stored
            if self._context.clock.now() >= until:
                break
        raise Refused(
            f"domain {wanted.domain}: its locks changed faster than they could be taken; nothing was locked",
            hint="try again",
        )

    async def _arm_and_send(
        self, change: Transition, guest: Guest, /, *, session: Session, until: float
    ) -> Answer:
        """Arm the guest while the transaction is under way. It does not run yet: only both together let it.

        Where it cannot be armed, what the transaction took is given back. Raises what either raises.
        """
        if change.after is None:
            raise RuntimeError("a transition that leaves no lock needs no guard")
        arming = asyncio.ensure_future(self.custody.arm(guest, change.after, session=session.ref.session))
        try:
            answer = await self._courier.send(change, session=session, until=until)
            if answer.applied and answer.stored is not None:  # also where we are cancelled before it is armed
                self._held[change.uuid] = Holding(answer.stored, guest, source=change.source)
        finally:
            if not arming.done():
                await undisturbed(_ended(arming))
        refused = arming.exception()
        if refused is not None and answer.applied:
            await self._put_back(change.uuid, until=until)
        if refused is not None:
            raise refused
        return answer

    def _out_of_step(self, session: Session, obstacles: Obstacles) -> bool:
        """Whether it was our own session that did not compare; then it is tried again under what there is now."""
        if not obstacles.session_epoch:
            self._member.found_missing(session.ref)
        elif obstacles.session_epoch != session.epoch:
            self._member.moved(session.ref, epoch=obstacles.session_epoch)
        else:
            return False
        return True

    async def _try_takeover(
        self, session: Session, wanted: Wanted, obstacles: Obstacles, /, *, until: float
    ) -> Answer:
        context = self._context
        evidence = await proofs_against(context, obstacles)
        change = take_over(
            context.keys, session, wanted, obstacles=obstacles, evidence=evidence, victim_request=context.fresh_id()
        )
        answer = await self._courier.send(change, session=session, until=until)
        if answer.applied:
            proofs = sorted({str(obituary.proof) for obituary in evidence.obituaries.values()})
            note("taken_over", level=logging.WARNING, domain=wanted.domain, proof=",".join(proofs))
        return answer

    async def _answer_in_time(self, uuid: UUID, /, *, until: float) -> StoredDomain:
        """The yes, or if it comes too late the lock is given back and nothing may start."""
        holding = self._held.get(uuid)
        session = self._member.session
        if holding is None:
            raise Superseded("the lock was taken by another before it could be used")
        now = self._context.clock.now()
        if holding.stored.record.owner == session.ref and session.may_answer_yes(now, self._context.timing):
            return holding.stored
        await self._put_back(uuid, until=until)
        raise SessionLost(f"session {session.ref} could not be proven any more when the lock came; it was given back")

    async def _put_back(self, uuid: UUID, /, *, until: float) -> None:
        """The guest must not run: end it, then give back what was taken for it."""
        guest = self._held[uuid].guest
        guest.kill()
        await until_gone(guest, self._context.clock)
        await self._release(uuid, until=until)

    # --- carrying over ---------------------------------------------------------------------------------------------

    async def carry_over(self, session: Session, /) -> None:
        """Re-join every domain into the new session; what has been taken by another meanwhile, its guest is killed."""
        until = session.stop_at(self._context.timing)
        if self._member.history_replaced:
            self.custody.condemn_frozen(holding.guest for holding in self._held.values())
            self._member.history_replaced = False
        async with asyncio.TaskGroup() as carrying:  # together: one that cannot be carried over holds up no other
            for uuid in sorted(self._held):
                carrying.create_task(self._carry_in_turn(uuid, until=until))

    async def _carry_in_turn(self, uuid: UUID, /, *, until: float) -> None:
        async with self._turn(uuid):
            try:
                await self._carry_one(uuid, until=until)
            except SessionLost as error:  # it is being stopped, or there is no guard for it
                note("rejoined_too_late", level=logging.ERROR, domain=uuid, error=error)
                if not self.custody.is_frozen(self._held[uuid].guest):  # which waits for the next proof
                    self._held[uuid].guest.kill()

    async def _carry_one(self, uuid: UUID, /, *, until: float) -> None:
        """Raises `SessionLost` where the guest cannot be armed under the new session."""
        context = self._context
        while (holding := self._held.get(uuid)) and holding.stored.record.owner != self._member.session.ref:
            if self._was_robbed(holding):
                return
            session = self._member.session
            change = rejoin(context.keys, session, holding.stored, request=context.fresh_id())
            try:
                answer = await self._courier.send(change, session=session, until=until)
            except EtcdlockError as error:  # whatever it is: the guest has until its deadline
                note("rejoin_failed", level=logging.WARNING, domain=holding.stored.record.domain, error=error)
                if context.clock.now() >= until:
                    return
                await context.clock.sleep(PAUSE_SECONDS)
                continue
            if not await self._carried(uuid, holding, session, answer) or context.clock.now() >= until:
                return
            if not answer.applied:
                await context.clock.sleep(PAUSE_SECONDS)

    async def _carried(self, uuid: UUID, holding: Holding, session: Session, answer: Answer, /) -> bool:
        """Take in the answer to a re-join; whether to look again."""
        stored = answer.stored
        if stored is None or not self._is_ours(stored, holding):
            await self._supersede(uuid, holding)
            return False
        self._held[uuid] = holding = replace(holding, stored=stored)
        if self._was_robbed(holding):
            return False
        if stored.record.owner != session.ref:
            self._courier.keep_in_step(session, answer)
            return not self._member.session.lost
        await self.custody.arm(holding.guest, stored.record, session=session.ref.session)
        note("rejoined", domain=stored.record.domain, session=session.ref, token=stored.token)
        return True

    def _is_ours(self, stored: StoredDomain, holding: Holding, /) -> bool:
        """By session, not by host: another program of this host may have taken the domain over with a proof.

        A re-join whose outcome is unknown counts, under whichever session it was sent.
        """
        mine = self._courier.sessions | {holding.stored.record.owner, self._member.session.ref}
        return stored.record.owner in mine

    def _was_robbed(self, holding: Holding, /) -> bool:
        """Whether others took something out of its record with a proof. Then its guest must not run on, though all of
        it be free again: what is left is given back at the guest's end.
        """
        record = holding.stored.record
        if record.taken_over:
            note("robbed", level=logging.ERROR, domain=record.domain, resources=", ".join(map(str, record.taken_over)))
            holding.guest.kill()
        return bool(record.taken_over)

    async def _supersede(self, uuid: UUID, holding: Holding, /) -> None:
        """Another has the domain: whatever still runs of ours must not."""
        note("superseded", level=logging.ERROR, domain=holding.stored.record.domain)
        del self._held[uuid]
        if not await self._stands_still(uuid, holding):
            holding.guest.kill()

    async def _stands_still(self, _uuid: UUID, _holding: Holding, /) -> bool:
        """Whether the guest of a domain that has gone to another is known not to run. Nothing is known here."""
        return False

    # --- giving back -----------------------------------------------------------------------------------------------

    async def release(self, uuid: UUID, /, *, until: float) -> None:
        """Give back a domain whose guest is gone, and disarm the guest once that is known.

        Raises `OutcomeUnknown` or `Unreachable` if etcd could not be asked until then: the locks may still stand.
        """
        async with self._turn(uuid):
            await self._release(uuid, until=until)

    async def _release(self, uuid: UUID, /, *, until: float) -> None:
        context = self._context
        async for attempt in context.patiently(until=until):
            with attempt:
                while (holding := self._held.get(uuid)) is not None:
                    session = self._member.session
                    change = self._giving_up(session, holding.stored, source=holding.source)
                    answer = await self._courier.send(change, session=session, until=until, gives_up=True)
                    await self._released(uuid, holding, session, answer)

    def _giving_up(self, session: Session, stored: StoredDomain, /, *, source: StoredDomain | None) -> Transition:
        """Of a domain that no guest of ours runs on; one that was claimed goes back to where it came from."""
        if source is None:
            return release(self._keys, session, stored)
        return hand_back(self._keys, session, stored, source=source, request=self._context.fresh_id())

    async def _released(self, uuid: UUID, holding: Holding, session: Session, answer: Answer, /) -> None:
        stored = answer.stored
        if stored is None or not self._is_ours(stored, holding):
            del self._held[uuid]
            await self._disarm(holding.guest)
            what = "released" if holding.source is None else "handed_back"
            note(what, domain=holding.stored.record.domain, token=holding.stored.token)
            return
        self._held[uuid] = replace(holding, stored=stored)
        self._courier.keep_in_step(session, answer)
        if self._member.session.lost:
            raise Unreachable(f"session {session.ref} is gone; the locks are given back when it has joined anew")

    async def _disarm(self, guest: Guest, /) -> None:
        """The guest is gone: without a guard there is nothing to disarm."""
        try:
            await self._guard.disarm(guest)
        except GuardLost as error:
            note("not_disarmed", level=logging.WARNING, pid=guest.pid, error=error)

    # --- settling what was lost ------------------------------------------------------------------------------------

    async def proven(self) -> None:
        """etcd answers: settle what is still unknown, and give back what nobody was told of."""
        for sent in self._courier.unsettled:
            try:
                async with self._turn(sent.uuid):
                    await self._settle_one(sent)
            except EtcdlockError as error:
                note("still_unsettled", level=logging.WARNING, domain=sent.uuid, error=error)
        if frozen := self.custody.frozen:  # mostly none: a proof costs no more for many guests than for one
            for uuid in [u for u, held in self._held.items() if (held.guest.pid, held.guest.pid_start) in frozen]:
                await self._let_go_on(uuid)

    async def _let_go_on(self, uuid: UUID, /) -> None:
        """The session is proven again: a guest that was frozen runs on, if its domain still names that session."""
        try:
            async with self._turn(uuid):
                await self._settle_first(uuid)
                await self._carry_one(uuid, until=self._context.clock.now())
                holding, session = self._held.get(uuid), self._member.session
                if holding is not None and holding.stored.record.owner == session.ref and not session.lost:
                    await self.custody.arm(holding.guest, holding.stored.record, session=session.ref.session)
        except EtcdlockError as error:
            note("guest_stands_on", level=logging.WARNING, domain=uuid, error=error)

    async def _settle_first(self, uuid: UUID, /) -> None:
        """No new transition of a domain, and no yes, while it is unknown what became of an earlier one."""
        for sent in self._courier.unsettled:
            if sent.uuid == uuid:
                await self._settle_one(sent)

    async def _settle_one(self, sent: Sent, /) -> None:
        """In the domain's turn."""
        if sent not in self._courier.unsettled:
            return
        found, holding = await self._courier.ask(sent.session, sent.uuid), self._held.get(sent.uuid)
        if holding is not None and sent.giving_up is not None and (found is None or not self._is_ours(found, holding)):
            answer = Answer(sent.giving_up.was_applied(found), found)
            await self._released(sent.uuid, holding, sent.session, answer)  # as it would have been, had it been heard
        elif holding is not None:
            await self._learn(sent.uuid, holding, found)
        elif found is not None and found.record.owner == sent.session.ref:
            await self._give_up_untold(sent, found)
        self._courier.forget(sent)
        note("settled", domain=sent.uuid)

    async def _learn(self, uuid: UUID, holding: Holding, found: StoredDomain | None, /) -> None:
        """What a barrier has found is what we hold."""
        if found is None or not self._is_ours(found, holding):
            await self._supersede(uuid, holding)
        elif found.record.owner == holding.stored.record.owner:
            self._held[uuid] = holding = replace(holding, stored=found)
            self._was_robbed(holding)
        else:
            await self._carried(uuid, holding, self._member.session, Answer(True, found))

    async def _give_up_untold(self, sent: Sent, found: StoredDomain, /) -> None:
        """Nobody was told that it was taken."""
        session = self._member.usable()
        change = self._giving_up(session, found, source=sent.source)
        answer = await self._courier.send(change, session=session, until=self._context.clock.now())
        if not answer.applied:
            self._courier.keep_in_step(session, answer)
            raise Unreachable(f"domain {sent.uuid}: not given back yet")


async def _ended(task: asyncio.Future[None]) -> None:
    """Wait for it, whatever comes of it."""
    await asyncio.wait((task,))
