"""The requests of programs that manage guests, in shadow mode: each is a success, whatever really became of it.

What is answered is the lock as it stands where there is one here. Where it would have been refused it is one that says
so much as that the guest may go on: held, or parked, by this host, with the token 0.

Guaranteed: an answer comes within `answer_seconds`, or as soon as the agent has one; only a look may fail, and not that
at a guest of this host that was told yes: whoever asks for it again, also after a restart of his own, hears the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

from etcdlock.agent.context import Context
from etcdlock.agent.host import HostAgent
from etcdlock.agent.requests import Requests
from etcdlock.agent.shadow import UNANSWERED, Question, Shadow
from etcdlock.errors import NoSuchGuest
from etcdlock.escalation import Action
from etcdlock.model import DomainId, DomainRecord, LockState, Owner, Resource, SessionKind, SessionRef, StoredDomain
from etcdlock.ports import Processes
from etcdlock.session import session_id

ANSWER_SECONDS = 2.0
UNPROVEN = session_id(SessionKind.AGENT, "shadow")
"""The session in an answer, where there is none."""


@dataclass(frozen=True, slots=True)
class _Told:
    """The latest yes of a guest that has no lock in truth."""

    question: Question
    state: LockState
    pid_start: int


class ShadowRequests:
    """In place of `Requests`, and before it. `wait_seconds` is as long as a destination waits for its source."""

    def __init__(
        self,
        requests: Requests,
        shadow: Shadow,
        agent: HostAgent,
        context: Context,
        /,
        *,
        processes: Processes,
        wait_seconds: float,
    ) -> None:
        self._requests = requests
        self._shadow = shadow
        self._agent = agent
        self._context = context
        self._processes = processes
        self._wait_seconds = wait_seconds
        self._answer_seconds = min(ANSWER_SECONDS, wait_seconds)  # less than the door waits for
        self._told: dict[UUID, _Told] = {}

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
        """As it stands. A guest that lives here and was told yes has its domain, unless another is known to."""
        told = self._living(uuid)
        if told is None:
            return await self._requests.find(uuid)
        stored = None
        if self._agent.ready.is_set():
            with suppress(TimeoutError, *UNANSWERED):
                async with asyncio.timeout(self._answer_seconds):
                    stored = await self._requests.find(uuid)
        return self._as_if(told.question, told.state) if stored is None else stored

    def holds(self, uuid: UUID, /) -> bool:
        """Whether it is."""
        return self._requests.holds(uuid)

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
        resident, told = self._agent.find(uuid), self._told.get(uuid)
        if resident is not None:
            return Question(asked, resident.owner.domain, resident.owner.pid, resources, again)
        if told is not None:
            return Question(asked, told.question.domain, told.question.pid, resources, again)
        return Question(asked, DomainId(uuid, ""), 0, resources, again)

    def _living(self, uuid: UUID, /) -> _Told | None:
        told = self._told.get(uuid)
        with suppress(NoSuchGuest):
            if told is not None and self._processes.attach(told.question.pid).pid_start == told.pid_start:
                return told
        self._told.pop(uuid, None)
        return None

    def _remember(self, question: Question, state: LockState, /) -> None:
        uuid = question.domain.uuid
        before = self._told.get(uuid)
        resources = question.resources or (() if before is None else before.question.resources)
        with suppress(NoSuchGuest):
            start = self._processes.attach(question.pid).pid_start
            self._told[uuid] = _Told(replace(question, resources=resources), state, start)

    async def _asked(
        self,
        question: Question,
        work: Callable[[], Awaitable[StoredDomain | None]],
        /,
        *,
        within_seconds: float | None = None,
    ) -> StoredDomain | None:
        """What came of it in time, if anything; it goes on."""
        task = self._shadow.ask(question, work)
        await asyncio.wait((task,), timeout=within_seconds or self._answer_seconds)
        is_answered = task.done() and not task.cancelled() and task.exception() is None
        return task.result() if is_answered else None

    async def _held(
        self,
        question: Question,
        work: Callable[[], Awaitable[StoredDomain]],
        /,
        *,
        state: LockState = LockState.HELD,
        within_seconds: float | None = None,
    ) -> StoredDomain:
        stored = await self._asked(question, work, within_seconds=within_seconds)
        holding = self._agent.ledger.holding(question.domain.uuid) if stored is None else None
        found = holding.stored if holding is not None else stored
        if found is None:
            self._remember(question, state)
            return self._as_if(question, state)
        self._told.pop(question.domain.uuid, None)
        return found

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
