"""Yes to everything: what stands before a host's agent in shadow mode, for libvirt's door and for all others.

What is asked is done for real behind the answer, in the order in which it was asked for each domain: locks are taken,
parked and given back, so that what would have been refused is known. That is noted (`findings`), and nothing of it
reaches whoever has asked.

Guaranteed: libvirt is answered at once, whatever becomes of etcd or of the agent. What could not be asked, since etcd
was away, is told of once and asked again, so that the guest has its locks when etcd is back.

Not guaranteed: that a guest which would have been refused has all of its locks; others are not refused for its sake.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from etcdlock.agent.context import Context
from etcdlock.agent.findings import Findings
from etcdlock.agent.host import HostAgent
from etcdlock.errors import (
    EtcdlockError,
    NoSuchGuest,
    NotLocked,
    NotReady,
    OutcomeUnknown,
    SessionLost,
    Unreachable,
)
from etcdlock.journal import note
from etcdlock.model import DomainId, Owner, Resource

T = TypeVar("T")

AGAIN_SECONDS = 1.0
MOST_WAITING = 100
"""Of a domain; what comes beyond them is not done."""
UNANSWERED = (NotReady, OutcomeUnknown, SessionLost, Unreachable)


@dataclass(slots=True)
class _Queue:
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked, of whom and about what, for the record. `again`: until there is an answer, whatever it is."""

    asked: str
    domain: DomainId
    pid: int = 0
    resources: tuple[Resource, ...] = ()
    again: bool = False


class Shadow:
    """Before one agent. `wait_seconds`: how long etcd may be away before that would have been a no."""

    def __init__(self, agent: HostAgent, context: Context, /, *, findings: Findings, wait_seconds: float) -> None:
        self._agent = agent
        self._context = context
        self.findings = findings
        self._wait_seconds = wait_seconds
        self._queues: dict[UUID, _Queue] = {}
        self._under_way: set[asyncio.Task[Any]] = set()
        self._unlocked: set[UUID] = set()

    # --- libvirt's door --------------------------------------------------------------------------------------------

    def present(self, owner: Owner, /) -> None:
        """A guest's process has started."""
        try:
            self._agent.present(owner)
        except EtcdlockError as error:
            note("not_noted", level=logging.DEBUG, owner=owner, error=error)

    async def take(self, owner: Owner, resource: Resource, /) -> None:
        """Yes."""
        question = Question("take", owner.domain, owner.pid, (resource,), again=True)
        self.ask(question, lambda: self._agent.take(owner, resource))

    def give_up(self, owner: Owner, resource: Resource, /) -> None:
        """Yes."""

        async def give_up() -> None:
            self._agent.give_up(owner, resource)

        self.ask(Question("give up", owner.domain, owner.pid, (resource,)), give_up)

    def departed(self, owner: Owner, /) -> None:
        """The guest's own connection has ended."""
        self._agent.departed(owner)

    # --- any door --------------------------------------------------------------------------------------------------

    def ask(self, question: Question, work: Callable[[], Awaitable[T]], /) -> asyncio.Task[T | None]:
        """Do it behind what was asked for the domain before. The result is None where it would have been refused."""
        queue = self._queues.setdefault(question.domain.uuid, _Queue())
        queue.waiting += 1
        task = asyncio.ensure_future(self._in_turn(queue, question, work))
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Nothing more is done; the next agent sees to what is left."""
        tasks = tuple(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- parts -----------------------------------------------------------------------------------------------------

    async def _in_turn(self, queue: _Queue, question: Question, work: Callable[[], Awaitable[T]], /) -> T | None:
        try:
            if queue.waiting > MOST_WAITING:
                note("shadow_not_asked", level=logging.WARNING, domain=question.domain, waiting=queue.waiting)
                return None
            async with queue.turn:
                return await self._do(question, work)
        finally:
            queue.waiting -= 1
            if not queue.waiting:
                self._queues.pop(question.domain.uuid, None)

    async def _do(self, question: Question, work: Callable[[], Awaitable[T]], /) -> T | None:
        is_told = False
        while True:
            try:
                await self._until_ready(is_told=is_told)
                return await work()
            except UNANSWERED as error:
                if not is_told:
                    self._tell(question, error)
                is_told = True
                if not question.again:
                    return None
            except EtcdlockError as error:
                self._tell(question, error)
                return None
            await self._context.clock.sleep(AGAIN_SECONDS)

    async def _until_ready(self, *, is_told: bool) -> None:
        """Raises `Unreachable` if the agent has not joined in time; whoever was told so waits for as long as it takes.
        """
        try:
            async with asyncio.timeout(None if is_told else self._wait_seconds):
                await self._agent.ready.wait()
        except TimeoutError:
            raise Unreachable("this host has not joined the cluster: etcd is away, or has refused it") from None

    def _tell(self, question: Question, error: EtcdlockError, /) -> None:
        """What follows from an earlier no, and what concerns nobody any more, is passed over."""
        uuid = question.domain.uuid
        if isinstance(error, NoSuchGuest) or (isinstance(error, NotLocked) and uuid in self._unlocked):
            return
        self._unlocked.add(uuid)
        self.findings.refused(
            question.asked, question.domain, error, pid=question.pid, resources=question.resources
        )

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """A fault of ours is logged, and whoever has asked has been told yes."""
        self._under_way.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            task.get_loop().call_exception_handler({"message": "shadow mode has a fault", "exception": fault})
