"""Sends the transitions of this program's sessions, each once, and finds out what became of those without an answer.

Guaranteed: what is sent is on the list of what is unsettled before it leaves, and comes off it only when its outcome is
known, whatever ends the sender in between. A lost answer is settled by a barrier: once it has committed, nothing sent
before it can commit any more, so what it reads is what was done.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from uuid import UUID

from etcdlock.agent.context import Context
from etcdlock.agent.member import Member
from etcdlock.errors import EtcdlockError, OutcomeUnknown, Unreachable
from etcdlock.journal import note
from etcdlock.model import SessionRef, StoredDomain
from etcdlock.ports import TxnResult
from etcdlock.records import decode_domain, decode_first
from etcdlock.session import Session
from etcdlock.transitions import Transition, barrier


@dataclass(frozen=True, slots=True)
class Sent:
    """What may still be under way: in which session's epoch, on which domain, and what a claim was made on.

    `giving_up` is the transition where it gives the domain back.
    """

    session: Session
    uuid: UUID
    source: StoredDomain | None = None
    giving_up: Transition | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known after a transaction: whether it was applied, the domain as it stands, and etcd's own answer.

    `result` is None where the answer was lost and the rest is known by a barrier.
    """

    applied: bool
    stored: StoredDomain | None
    result: TxnResult | None = None


class Courier:
    """All that one member sends about domains."""

    def __init__(self, context: Context, /, *, member: Member) -> None:
        self._context = context
        self._member = member
        self._unsettled: list[Sent] = []

    @property
    def unsettled(self) -> tuple[Sent, ...]:
        """What may still be done, or have been done, without our knowing."""
        return tuple(self._unsettled)

    @property
    def sessions(self) -> frozenset[SessionRef]:
        """The sessions that may come to own something by it."""
        return frozenset(sent.session.ref for sent in self._unsettled)

    async def send(
        self, change: Transition, /, *, session: Session, until: float, gives_up: bool = False
    ) -> Answer:
        """Send once. A lost answer is settled, so that what comes back is what was done.

        Raises `OutcomeUnknown` if that cannot be found out until then, and whatever says that nothing was done.
        """
        sent = Sent(session, change.uuid, change.source, change if gives_up else None)
        self._unsettled.append(sent)
        try:
            result = await self._context.store.txn(change.txn)
        except OutcomeUnknown as error:
            note("outcome_unknown", level=logging.WARNING, domain=change.uuid, error=error)
            found = await self._settle(sent, until=until)
            return Answer(change.was_applied(found), found)
        except EtcdlockError:
            self._unsettled.remove(sent)  # every other error says that nothing was done
            raise
        self._unsettled.remove(sent)
        self._member.saw(result.revision)
        if result.succeeded:
            return Answer(True, change.stored(result.revision), result)
        return Answer(False, decode_first(result.replies[1], decode_domain), result)

    def keep_in_step(self, session: Session, answer: Answer, /) -> None:
        """Learn from a refused rewrite what has become of our own session's key."""
        if answer.result is None:
            return
        found = answer.result.replies[0]
        if not found:
            self._member.found_missing(session.ref)
        else:
            self._member.moved(session.ref, epoch=found[0].mod_revision)

    async def ask(self, session: Session, uuid: UUID, /) -> StoredDomain | None:
        """Put a barrier and read the domain behind it."""
        result = await self._context.store.txn(barrier(self._context.keys, session, uuid=uuid))
        if result.succeeded:
            self._member.moved(session.ref, epoch=result.revision)
        else:
            self._member.found_missing(session.ref)
        return decode_first(result.replies[-1], decode_domain)

    def forget(self, sent: Sent, /) -> None:
        """Its outcome is known, and whatever came of it is accounted for."""
        self._unsettled = [other for other in self._unsettled if other != sent]

    async def _settle(self, sent: Sent, /, *, until: float) -> StoredDomain | None:
        """The domain as it stands once nothing of the session's earlier epochs can commit any more."""
        try:
            async for attempt in self._context.patiently(until=until):
                with attempt:
                    found = await self.ask(sent.session, sent.uuid)
        except (Unreachable, OutcomeUnknown) as error:
            raise OutcomeUnknown(
                f"domain {sent.uuid}: etcd did not say whether it was done, and cannot be asked: {error}",
                hint="it is settled when etcd answers again; until then nothing runs on it",
            ) from error
        self.forget(sent)
        return found
