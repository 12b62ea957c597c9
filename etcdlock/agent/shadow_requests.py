"""The requests of programs that manage guests, in shadow mode: each is a success, whatever really became of it.

What is answered is the lock as it stands where there is one here. Where it would have been refused it is one that says
so much as that the guest may go on: held, or parked, by this host, with the token 0.

Guaranteed: an answer comes within `answer_seconds`, or as soon as the agent has one; only a look may fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from uuid import UUID

from etcdlock.agent.context import Context
from etcdlock.agent.host import HostAgent
from etcdlock.agent.requests import Requests
from etcdlock.agent.shadow import Question, Shadow
from etcdlock.escalation import Action
from etcdlock.model import DomainId, DomainRecord, LockState, Owner, Resource, SessionRef, StoredDomain

ANSWER_SECONDS = 2.0
UNPROVEN = "shadow"
"""The session in an answer, where there is none."""


class ShadowRequests:
    """In place of `Requests`, and before it. `wait_seconds` is as long as a destination waits for its source."""

    def __init__(
        self, requests: Requests, shadow: Shadow, agent: HostAgent, context: Context, /, *, wait_seconds: float
    ) -> None:
        self._requests = requests
        self._shadow = shadow
        self._agent = agent
        self._context = context
        self._wait_seconds = wait_seconds

    async def acquire(
        self, owner: Owner, resources: tuple[Resource, ...], /, *, on_session_lost: Action | None = None
    ) -> StoredDomain:
        """Yes."""
        question = Question("acquire", owner.domain, owner.pid, resources, again=True)
        work = partial(self._requests.acquire, owner, resources, on_session_lost=on_session_lost)
        return await self._held(question, work)

    async def attach(self, owner: Owner, resources: tuple[Resource, ...], /) -> StoredDomain:
        """Yes."""
        question = Question("attach", owner.domain, owner.pid, resources, again=True)
        return await self._held(question, lambda: self._requests.attach(owner, resources))

    async def release(self, uuid: UUID, /) -> None:
        """Done, or as good as done."""
        await self._asked(self._about("release", uuid), lambda: self._requests.release(uuid))

    async def find(self, uuid: UUID, /) -> StoredDomain | None:
        """As it stands; a guest that lives here, and whose domain nobody has, has been told yes: so it is here, too."""
        stored, resident = await self._requests.find(uuid), self._agent.find(uuid)
        if stored is not None or resident is None or resident.gone:
            return stored
        return self._as_if(self._about("find", uuid), LockState.PARKED if resident.rests else LockState.HELD)

    async def give_back(self, owner: Owner, /) -> None:
        """Yes."""
        question = Question("give back", owner.domain, owner.pid)
        await self._asked(question, lambda: self._requests.give_back(owner))

    async def park(self, uuid: UUID, /) -> StoredDomain:
        """Yes."""
        question = self._about("park", uuid)
        return await self._held(question, lambda: self._requests.park(uuid), state=LockState.PARKED)

    async def unpark(self, uuid: UUID, /) -> StoredDomain:
        """Yes."""
        return await self._held(self._about("unpark", uuid), lambda: self._requests.unpark(uuid))

    async def add(self, uuid: UUID, resource: Resource, /) -> StoredDomain:
        """Yes."""
        question = self._about("add", uuid, resource, again=True)
        return await self._held(question, lambda: self._requests.add(uuid, resource))

    async def remove(self, uuid: UUID, resource: Resource, /) -> StoredDomain:
        """Yes."""
        return await self._held(self._about("remove", uuid, resource), lambda: self._requests.remove(uuid, resource))

    async def complete(self, uuid: UUID, /) -> StoredDomain | None:
        """Yes."""
        return await self._asked(self._about("complete", uuid), lambda: self._requests.complete(uuid))

    async def incoming(self, owner: Owner, resources: tuple[Resource, ...], /, *, run: str = "") -> StoredDomain:
        """Yes, once its source has parked it or that has taken too long."""
        question = Question("incoming", owner.domain, owner.pid, resources)
        work = lambda: self._requests.incoming(owner, resources, run=run)  # noqa: E731 - as above, with a longer bound
        return await self._held(question, work, within_seconds=self._wait_seconds)

    async def incoming_complete(self, uuid: UUID, /) -> StoredDomain:
        """Yes."""
        return await self._held(
            self._about("incoming complete", uuid), lambda: self._requests.incoming_complete(uuid)
        )

    async def incoming_cancel(self, uuid: UUID, /) -> StoredDomain | None:
        """Yes."""
        return await self._asked(self._about("incoming cancel", uuid), lambda: self._requests.incoming_cancel(uuid))

    # --- parts -----------------------------------------------------------------------------------------------------

    def _about(self, asked: str, uuid: UUID, /, *resources: Resource, again: bool = False) -> Question:
        resident = self._agent.find(uuid)
        if resident is None:
            return Question(asked, DomainId(uuid, ""), 0, resources, again)
        return Question(asked, resident.owner.domain, resident.owner.pid, resources, again)

    async def _asked(
        self,
        question: Question,
        work: Callable[[], Awaitable[StoredDomain | None]],
        /,
        *,
        within_seconds: float = ANSWER_SECONDS,
    ) -> StoredDomain | None:
        """What came of it in time, if anything; it goes on."""
        task = self._shadow.ask(question, work)
        await asyncio.wait((task,), timeout=within_seconds)
        is_answered = task.done() and not task.cancelled() and task.exception() is None
        return task.result() if is_answered else None

    async def _held(
        self,
        question: Question,
        work: Callable[[], Awaitable[StoredDomain]],
        /,
        *,
        state: LockState = LockState.HELD,
        within_seconds: float = ANSWER_SECONDS,
    ) -> StoredDomain:
        stored = await self._asked(question, work, within_seconds=within_seconds)
        holding = self._agent.ledger.holding(question.domain.uuid) if stored is None else None
        return stored or (holding.stored if holding is not None else self._as_if(question, state))

    def _as_if(self, question: Question, state: LockState, /) -> StoredDomain:
        """It holds nothing in truth."""
        context, member = self._context, self._agent.member
        record = DomainRecord(
            domain=question.domain,
            owner=member.session.ref if member.has_joined else SessionRef(context.host, UNPROVEN),
            machine=context.machine,
            state=state,
            pid=question.pid,
            pid_start=0,
            resources=question.resources,
            request="",
            token=0,
            since=context.since(),
        )
        return StoredDomain(record, 0)
