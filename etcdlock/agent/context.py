"""What every part of a program needs of the world around it, handed in once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from etcdlock.errors import OutcomeUnknown, Unreachable
from etcdlock.escalation import Action
from etcdlock.keyspace import Keyspace
from etcdlock.model import DomainId, Machine, SessionKind
from etcdlock.ports import Clock, Guest, Store, Txn, TxnResult
from etcdlock.session import Contract
from etcdlock.timing import Timing

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0


OwnAction = Callable[[Guest, DomainId], Action | None]


def no_choice(_guest: Guest, _domain: DomainId, /) -> None:
    """The host's setting decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The store, the clock, the keys and who we are.

    `on_session_lost` is done first with a guest whose session cannot be proven any more, unless `own_action` knows of a
    choice of the guest's own; it raises `InvalidDomainXml` for one that cannot be kept. `chance` gives ids and jitter;
    a seeded one makes runs repeatable.
    `is_shadow`: what would be refused or stopped is only noted.
    """

    store: Store
    clock: Clock
    keys: Keyspace
    contract: Contract
    host: str
    machine: Machine
    kind: SessionKind
    version: str
    address: str = ""
    on_session_lost: Action = Action.KILL
    own_action: OwnAction = no_choice
    is_shadow: bool = False
    chance: random.Random = field(default_factory=random.SystemRandom)

    @property
    def timing(self) -> Timing:
        """The contract's timing."""
        return self.contract.timing

    def on(self, timing: Timing, /) -> Context:
        """The same on a host that has a watchdog, or none: only that may differ from the cluster's timing."""
        return replace(self, contract=replace(self.contract, timing=timing))

    def fresh_id(self) -> str:
        """A random id, 64 bits in hex, used once: for a session or a request."""
        return f"{self.chance.getrandbits(64):016x}"

    def since(self) -> str:
        """Now, for people."""
        return self.clock.wall().isoformat(timespec="seconds")

    async def look(self, reads: Txn, /) -> TxnResult:
        """Send a transaction that only reads: where its answer is lost nothing was done, so that is `Unreachable`."""
        try:
            return await self.store.txn(reads)
        except OutcomeUnknown as error:
            raise Unreachable(str(error)) from error

    def patiently(self, *, until: float) -> AsyncRetrying:
        """Repeat what failed for want of an answer, with exponential backoff and jitter; no try begins after `until`.

        Only for what may be repeated: connecting, joining, reads, barriers. Never round another transaction.
        """
        return AsyncRetrying(
            sleep=self.clock.sleep,
            stop=_when_past(self.clock, until),
            wait=lambda state: min(self.backoff_seconds(state.attempt_number), max(until - self.clock.now(), 0.0)),
            retry=retry_if_exception_type((Unreachable, OutcomeUnknown)),
            reraise=True,
        )

    def backoff_seconds(self, failures: int, /) -> float:
        """How long to pause after that many failures in a row (1 or more): exponential, with jitter."""
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 10))
        return self.chance.uniform(longest / 2, longest)


async def undisturbed(part: Coroutine[Any, Any, T], /) -> T:
    """Run what must not be left half done to its end, however often we are cancelled meanwhile; then be cancelled.

    Only for what is bounded in time, or must be waited for whatever it takes, as the end of a guest must.
    """
    task, cancelled = asyncio.ensure_future(part), False
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        task.exception()
        raise asyncio.CancelledError
    return task.result()


def first_cause(error: BaseException | None, /) -> BaseException:
    """What made one of a program's own parts end; a task group wraps it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error or RuntimeError("a part that must never end has ended")


def _when_past(clock: Clock, until: float) -> Callable[[RetryCallState], bool]:
    return lambda _state: clock.now() >= until
