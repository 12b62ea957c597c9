"""Keeps this program's session: joins, proves it, joins anew when its key is gone, leaves.

Guaranteed: the guard hears of a proof only after the heartbeat committed, with the instant it was *sent*. A lease
keepalive is sent beside every heartbeat so that etcd keeps the key; what it answers proves nothing. A heartbeat that
finds the key standing in another history of etcd proves nothing either: the session counts as lost.

Which clock: `ports.Clock`. Whether a lost session's locks are carried over is `ledger`'s part.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import NoReturn, Protocol

from etcdlock.agent.context import Context, undisturbed
from etcdlock.agent.pausing import pause
from etcdlock.errors import EtcdlockError, SessionLost, Unreachable, UnsteadyClock
from etcdlock.journal import note
from etcdlock.model import Obituary, Proof, SessionRecord, SessionRef
from etcdlock.ports import Get, Guard, KeyRange, Lease, Txn
from etcdlock.records import decode_contract, decode_session
from etcdlock.session import (
    Neighbour,
    Phase,
    Session,
    check_contract,
    duplicate_host,
    history_replaced,
    judge_neighbour,
    session_id,
)
from etcdlock.transitions import heartbeat, join, leave, resume, write_obituary

NEIGHBOUR_PAUSE_SECONDS = 0.3


class Follower(Protocol):
    """What depends on a member's sessions."""

    def carry_over(self, session: Session, /) -> Coroutine[None, None, None]:
        """A new session has taken the lost one's place."""
        ...

    def proven(self) -> Coroutine[None, None, None]:
        """A heartbeat has committed: etcd answers."""
        ...


class Member:
    """One member of the cluster, over however many sessions it takes."""

    def __init__(self, context: Context, /, *, guard: Guard) -> None:
        self._context = context
        self._guard = guard
        self._session: Session | None = None
        self._changed = asyncio.Event()
        self._seen = 0
        self.history_replaced = False
        """Whether etcd was found to have another history than before, until the guests have been seen to for it."""
        self.last_failure = ""
        self.rounds = 0
        """How often `keep` has come round, whatever etcd said: it grows as long as the session is attended to."""

    @property
    def has_joined(self) -> bool:
        """Whether there has been a session."""
        return self._session is not None

    @property
    def session(self) -> Session:
        """The latest session; raises `SessionLost` before the first one has joined."""
        if self._session is None:
            raise SessionLost("this program has not joined the cluster yet")
        return self._session

    @property
    def phase(self) -> Phase:
        """What may be done right now."""
        return self.session.phase(self._context.clock.now(), self._context.timing)

    def usable(self) -> Session:
        """The session, if something new may be acquired under it; else raises `SessionLost`."""
        if self.phase is not Phase.LIVE:
            raise SessionLost(
                f"session {self.session.ref} is {self.phase}: nothing is acquired under it. {self.last_failure}".strip()
            )
        return self.session

    def acquiring(self) -> Session:
        """`usable`, if this host's clocks keep to the contract as well; else raises `UnsteadyClock`."""
        error, allowed = self._context.clock.rate_error(), self._context.timing.clock_rate_error
        if abs(error) > allowed:
            raise UnsteadyClock(
                f"the clocks of host {self._context.host} differ in rate by {error:+.2%}, the timing contract allows "
                f"{allowed:.2%}: nothing is acquired by them",
                hint="see what slews the system clock (chronyc tracking, timedatectl); try again when it has settled",
            )
        return self.usable()

    def moved(self, ref: SessionRef, /, *, epoch: int) -> None:
        """A barrier has begun a new epoch of the session `ref`."""
        if self.session.ref == ref:
            self._session = self.session.moved(epoch)

    def saw(self, revision: int, /) -> None:
        """etcd has answered a transaction of ours at this revision."""
        self._seen = max(self._seen, revision)

    def _is_of_another_history(self, revision: int, /, *, seen: int) -> bool:
        """Whether the answer to what was sent once `seen` was known says that etcd was restored or emptied."""
        if not history_replaced(seen=seen, revision=revision):
            self.saw(revision)
            return False
        note("etcd_history_replaced", level=logging.CRITICAL, host=self._context.host, seen=seen, revision=revision)
        self._seen = revision
        self.history_replaced = True
        return True

    def found_missing(self, ref: SessionRef, /) -> None:
        """A committed transaction found the key of session `ref` gone."""
        if self.session.ref == ref and not self.session.lost:
            note("session_lost", level=logging.WARNING, session=ref)
            self._session = self.session.missing()
            self._changed.set()

    # --- joining ---------------------------------------------------------------------------------------------------

    async def join(self, *, until: float) -> Session:
        """Become a session with a new id and a new lease. Raises `Refused` of several kinds, or `Unreachable`."""
        async for attempt in self._context.patiently(until=until):
            with attempt:
                session = await self._join_once()
        self._session = session
        note("session_joined", session=session.ref, kind=session.record.kind, lease=f"{session.lease:x}")
        return session

    async def resume_or_join(self, *, until: float) -> Session:
        """Go on with the session of an earlier program of our kind on this boot, if its key still stands; else join.

        There must be no such program any more. What it has sent and is still under way can never commit after this.
        """
        async for attempt in self._context.patiently(until=until):
            with attempt:
                self._session = await self._resume_once()
        if self._session is None:
            return await self.join(until=until)
        note("session_resumed", session=self._session.ref, lease=f"{self._session.lease:x}")
        return self._session

    async def _resume_once(self) -> Session | None:
        context = self._context
        await self._look_round()
        resumed: Session | None = None
        for earlier in await self._earlier():  # all of them: a join that it gave up may have left a second one
            session = replace(earlier, proven_at=context.clock.now())
            result = await context.store.txn(resume(context.keys, session))
            if result.succeeded and resumed is None:
                resumed = session.moved(result.revision)
        if resumed is not None:
            await self._guard.prove(resumed.ref.session, at=resumed.proven_at)
        return resumed

    async def _earlier(self) -> list[Session]:
        """The sessions of our kind and boot that still have keys, the latest first."""
        context = self._context
        looked = await context.look(Txn((), (Get(context.keys.sessions(context.host)),)))
        found = [(decode_session(item), item) for item in looked.replies[0]]
        sessions = [
            Session(record, item.lease, item.create_revision, item.mod_revision, proven_at=0.0)
            for record, item in found
            if judge_neighbour(context.machine, record) is Neighbour.SIBLING and record.kind is context.kind
        ]
        return sorted(sessions, key=lambda session: session.create_revision, reverse=True)

    async def _join_once(self) -> Session:
        context = self._context
        contract_revision, seen = await self._look_round()
        lease = await context.store.grant(ttl_seconds=context.timing.ttl_seconds)
        try:
            self._check_granted(lease)
            session = await self._become(lease, contract_revision=contract_revision, seen=seen)
            await self._guard.prove(session.ref.session, at=session.proven_at)
        except BaseException:  # cancelled, too: it may have been applied, and nobody would keep that session
            await undisturbed(self._drop(lease.id))
            raise
        return session

    def _check_granted(self, lease: Lease, /) -> None:
        """etcd grants no less than one and a half of its election timeouts. Nothing is stopped later or proven sooner
        for it: takeovers come later. Raises `UnsafeTiming`.
        """
        asked, granted = self._context.timing, self._context.timing.granted(lease.ttl_seconds)
        if granted != asked:
            note(
                "lease_not_as_asked",
                level=logging.WARNING,
                asked_seconds=asked.ttl_seconds,
                granted_seconds=granted.ttl_seconds,
                takeover_seconds=granted.takeover_seconds,
            )

    async def _become(self, lease: Lease, /, *, contract_revision: int, seen: int) -> Session:
        context, contract = self._context, self._context.contract
        record = self._record(ttl_seconds=lease.ttl_seconds)
        txn = join(
            context.keys, record, lease=lease.id, contract=contract, contract_revision=contract_revision, seen=seen
        )
        sent_at, known = context.clock.now(), self._seen
        result = await context.store.txn(txn)
        self._is_of_another_history(result.revision, seen=known)
        if not result.succeeded:
            raise Unreachable("other sessions of this host came or the contract changed while joining")
        return Session(record, lease.id, result.revision, result.revision, sent_at)

    def _record(self, *, ttl_seconds: int) -> SessionRecord:
        """A session with an id that was never used before."""
        context = self._context
        return SessionRecord(
            ref=SessionRef(context.host, session_id(context.kind, context.fresh_id())),
            machine=context.machine,
            kind=context.kind,
            version=context.version,
            address=context.address,
            since=context.since(),
            ttl_seconds=ttl_seconds,
        )

    async def _look_round(self) -> tuple[int, int]:
        """Check the contract and who else lives under our host id; revisions of the contract and of the look."""
        context = self._context
        begun = context.clock.now()
        while True:
            looked = await context.look(
                Txn((), (Get(KeyRange(context.keys.contract)), Get(context.keys.sessions(context.host))))
            )
            contract, others = looked.replies
            if contract:
                check_contract(context.contract, decode_contract(contract[0]), key=context.keys.contract)
            records = [decode_session(found) for found in others]
            strangers = [r for r in records if judge_neighbour(context.machine, r) is Neighbour.EARLIER_BOOT]
            if not strangers:
                return (contract[0].mod_revision if contract else 0), looked.revision
            waited = context.clock.now() - begun
            if waited > max(context.timing.key_gone_seconds(stranger.ttl_seconds) for stranger in strangers):
                raise duplicate_host(strangers[0], waited_seconds=waited)
            await context.clock.sleep(NEIGHBOUR_PAUSE_SECONDS)

    async def _drop(self, lease: int) -> None:
        """Nothing may be left of a session that nobody keeps; if etcd is away the lease runs out by itself."""
        try:
            await self._context.store.revoke(lease)
        except EtcdlockError as error:
            note("lease_left_to_expire", level=logging.WARNING, lease=f"{lease:x}", error=error)

    # --- renewing --------------------------------------------------------------------------------------------------

    async def keep(self, follower: Follower, /) -> NoReturn:
        """Renew for ever; the follower hears of every proof, and of every later session before it is first renewed."""
        async with asyncio.TaskGroup() as following:
            failures = 0
            await self._pause(self._context.timing.renew_every_seconds)
            while True:
                begun = self._context.clock.now()
                if self.session.lost:
                    done = await self._join_anew()
                    follow = follower.carry_over(self.session) if done else None
                else:
                    done = await self._renew(self.session)
                    follow = follower.proven() if done else None
                if follow is not None:
                    following.create_task(follow)  # beside the renewals: no lock of a guest may hold these up
                failures = 0 if done else failures + 1
                self.rounds += 1
                await self._pause(self._next_in(failures, spent=self._context.clock.now() - begun))

    def _next_in(self, failures: int, *, spent: float) -> float:
        every = self._context.timing.renew_every_seconds
        return min(every, self._context.backoff_seconds(failures)) if failures else max(every - spent, 0.0)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but no longer once the session is found missing."""
        if self._changed.is_set():
            self._changed.clear()
            return
        await pause(self._context.clock, seconds, unless=self._changed)

    async def _renew(self, session: Session) -> bool:
        """One heartbeat, one keepalive. Whether a proof came of it."""
        proof, _ = await asyncio.gather(self._heartbeat(session), self._keep_alive(session))
        return proof

    async def _heartbeat(self, session: Session) -> bool:
        context = self._context
        context.clock.rate_error()  # measured between calls
        sent_at, known = context.clock.now(), self._seen
        try:
            result = await context.store.txn(heartbeat(context.keys, session))
        except EtcdlockError as error:
            level = logging.INFO if self.last_failure else logging.WARNING  # once an outage, not once a try
            note("heartbeat_failed", level=level, session=session.ref, error=error)
            self.last_failure = str(error)
            return False
        if self._is_of_another_history(result.revision, seen=known) or not result.succeeded:
            self.found_missing(session.ref)
            return False
        note("heartbeat", level=logging.DEBUG, session=session.ref, seconds=context.clock.now() - sent_at)
        if self.session.ref == session.ref:
            self._session = self.session.proven(sent_at)
            await self._guard.prove(session.ref.session, at=self.session.proven_at)
        if self.last_failure:
            note("heartbeat_back", level=logging.WARNING, session=session.ref)
        self.last_failure = ""
        return True

    async def _keep_alive(self, session: Session) -> None:
        try:
            await self._context.store.keep_alive(session.lease)
        except EtcdlockError as error:
            note("keepalive_failed", level=logging.DEBUG, session=session.ref, error=error)

    async def _join_anew(self) -> bool:
        """Once more a session, while the guests of the lost one still have time."""
        try:
            await self.join(until=self._context.clock.now())
        except EtcdlockError as error:
            level = logging.INFO if self.last_failure else logging.WARNING
            self.last_failure = str(error)
            note("join_failed", level=level, host=self._context.host, error=error)
            return False
        return True

    # --- leaving ---------------------------------------------------------------------------------------------------

    async def leave(self, *, unreleased: frozenset[SessionRef], until: float) -> bool:
        """End the session in order; of each session of ours that unreleased locks may name, prove the end.

        Nothing of these sessions may be running, and `keep` must have ended: it would join anew. Returns whether etcd
        knows; if not, the lease runs out by itself.
        """
        try:
            async for attempt in self._context.patiently(until=until):
                with attempt:
                    await self._end(unreleased)
        except EtcdlockError as error:
            note("session_left_to_expire", level=logging.WARNING, session=self.session.ref, error=error)
            return False
        await self._drop(self.session.lease)
        note("session_left", session=self.session.ref)
        return True

    async def _end(self, unreleased: frozenset[SessionRef], /) -> None:
        context, ref = self._context, self.session.ref
        why, when = "ended with locks unreleased", context.since()
        proofs = {dead: Obituary(dead, Proof.LEFT, str(ref), why, when) for dead in sorted(unreleased)}
        result = await context.store.txn(leave(context.keys, self.session, obituary=proofs.get(ref)))
        for dead, proof in proofs.items():
            if dead != ref or not result.succeeded:
                await context.store.txn(write_obituary(context.keys, proof))
