"""One guest under a session of its own: what `etcdlock run` does where no agent is up.

Guaranteed: the guest's processes exist behind a closed gate and are armed before their locks are asked for; the gate
opens only with the locks held and the session proven in time; the locks are given back only when the last process of
the guest is gone. Whatever ends this program in order, cancellation included, leaves nothing of it in etcd, or the
proof that lets others take it at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from etcdlock.agent.context import Context, first_cause, undisturbed
from etcdlock.agent.enforcer import Enforcer, Together
from etcdlock.agent.kept_guard import KeptGuard
from etcdlock.agent.ledger import Ledger
from etcdlock.agent.member import Member
from etcdlock.agent.observer import Observer
from etcdlock.agent.parting import until_gone
from etcdlock.agent.waiting import wait_for_change
from etcdlock.errors import EtcdlockError, HeldElsewhere, OutcomeUnknown, SessionLost, Unreachable
from etcdlock.escalation import Action
from etcdlock.journal import note
from etcdlock.model import DomainId, Resource, StoredDomain
from etcdlock.ports import ExitStatus, Guest, Guests
from etcdlock.session import Phase
from etcdlock.transitions import Wanted

LIVE_PAUSE_SECONDS = 0.1


def _tell_nobody(token: int, /) -> None:
    """Of a guest that has been let run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to run: the domain, its resources, and the command with its environment.

    `wait_seconds` is how long to wait for locks that others hold; `answer_seconds` how long for an etcd that is away.
    `tell` is told the token once it runs. `on_session_lost` is for an agent, where the guest chooses for itself.
    """

    domain: DomainId
    resources: tuple[Resource, ...]
    command: Sequence[str]
    environment: Mapping[str, str]
    wait_seconds: float = 0.0
    answer_seconds: float = 10.0
    tell: Callable[[int], None] = _tell_nobody
    on_session_lost: Action | None = None

    @property
    def patience_seconds(self) -> float:
        """How long an etcd that is away is waited for."""
        return max(self.wait_seconds, self.answer_seconds)


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended: the command's status, and whether etcdlock stopped it.

    `released` says that etcd knows: the locks are free, or there is the proof that lets others take them at once;
    `in_doubt`, that it was killed and nobody can tell whether etcdlock did it.
    """

    status: ExitStatus
    stopped: bool
    released: bool
    in_doubt: bool = False


class Solo:
    """Runs one task, once."""

    def __init__(self, context: Context, task: Task, /, *, guests: Guests, guard: KeptGuard | None) -> None:
        self._context = context
        self._task = task
        self._guests = guests
        self._enforcer = Enforcer(context.clock, timing=context.timing)
        self._kept_guard = guard
        self._guard = Together(self._enforcer, guard) if guard else Together(self._enforcer)
        self._member = Member(context, guard=self._guard)
        self._ledger = Ledger(context, member=self._member, guard=self._guard)
        self._observer = Observer(context)
        self._running: Guest | None = None
        self._has_run = False
        self._end_by: float | None = None
        self._left = False

    def signal(self, number: int, /) -> bool:
        """Pass a signal on to the guest; False if none has run yet, and then nothing was done.

        Once the guest is gone there is nobody to pass it on to, and we are ending anyway: that is True as well.
        """
        if self._running is not None:
            self._running.signal(number)
        return self._has_run

    async def may_go_on(self) -> bool:
        """Whether a guest that somebody has stopped may be let run: what is overdue is the guard's to see to."""
        return self._running is not None and not self._enforcer.overdue(self._running)

    async def run(self) -> Ending:
        """Join, acquire, run, release, leave. Raises what `Member.join` and `Ledger.acquire` raise."""
        try:
            await self._member.join(until=self._context.clock.now() + self._task.answer_seconds)
            return await self._with_keepers()
        finally:
            await undisturbed(self._guard.close())

    async def _with_keepers(self) -> Ending:
        """Do the work for as long as every part that must never end goes on."""
        keepers: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(self._member.keep(self._ledger)),
            asyncio.ensure_future(self._enforcer.keep()),
            asyncio.ensure_future(self._observer.keep()),
            *([asyncio.ensure_future(self._kept_guard.keep())] if self._kept_guard else []),
        ]
        work = asyncio.ensure_future(self._work())
        try:
            await asyncio.wait((work, *keepers), return_when=asyncio.FIRST_COMPLETED)
        finally:
            failed = [keeper for keeper in keepers if keeper.done()]
            await undisturbed(self._wind_up(work, keepers))
        if failed:
            raise first_cause(failed[0].exception())
        ending = work.result()
        return replace(ending, released=ending.released or self._left)

    async def _work(self) -> Ending:
        guest, stored = await self._start()
        return await self._until_gone(guest, stored)

    async def _wind_up(self, work: asyncio.Future[Ending], keepers: list[asyncio.Future[Any]], /) -> None:
        """End the work if it has not ended, then the session, and only then what protects it."""
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        if self._context.clock.now() < self._until():
            await self._give_back()
        await _cancelled(keepers[:1])  # who keeps the session would join anew what we leave
        await self._leave()
        await _cancelled(keepers[1:])

    # --- starting --------------------------------------------------------------------------------------------------

    async def _start(self) -> tuple[Guest, StoredDomain]:
        """Try, and where others hold the locks wait for them, until guest and locks are there and the gate is open."""
        begun = self._context.clock.now()
        held_until, away_until = begun + self._task.wait_seconds, begun + self._task.patience_seconds
        failures = 0
        while True:
            try:
                return await self._attempt(until=away_until)
            except HeldElsewhere as refusal:
                if self._context.clock.now() >= held_until:
                    raise
                note("waiting", domain=self._task.domain, blockers=len(refusal.blockers))
                await wait_for_change(
                    self._context, refusal, resources=self._task.resources, observer=self._observer, until=held_until
                )
            except (Unreachable, OutcomeUnknown, SessionLost) as error:
                if self._context.clock.now() >= away_until:
                    raise
                note("attempt_failed", level=logging.WARNING, domain=self._task.domain, error=error)
                failures += 1
                await self._context.clock.sleep(self._context.backoff_seconds(failures))
            await self._ready(until=away_until)

    async def _ready(self, *, until: float) -> None:
        """Wait for a session that may acquire and for every earlier outcome to be known."""
        clock = self._context.clock
        while (self._member.phase is not Phase.LIVE or self._ledger.unsettled) and clock.now() < until:
            await clock.sleep(LIVE_PAUSE_SECONDS)

    async def _attempt(self, *, until: float) -> tuple[Guest, StoredDomain]:
        task, context = self._task, self._context
        await self._ledger.release(task.domain.uuid, until=until)  # what an earlier attempt could not give back
        guest = await self._guests.start(task.command, environment=task.environment)
        wanted = Wanted(
            task.domain, task.resources, context.fresh_id(), context.since(), pid=guest.pid, pid_start=guest.pid_start
        )
        try:
            stored = await self._ledger.acquire(wanted, guest, until=until)
            guest.open_gate(token=stored.token)  # nothing is awaited between the answer and this
        except BaseException:
            await undisturbed(self._put_away(guest))
            raise
        self._running, self._has_run = guest, True
        note("guest_started", domain=task.domain, pid=guest.pid, token=stored.token)
        return guest, stored

    async def _put_away(self, guest: Guest, /) -> None:
        """A guest that never ran."""
        guest.kill()
        await until_gone(guest, self._context.clock)
        await self._guard.disarm(guest)

    # --- ending ----------------------------------------------------------------------------------------------------

    async def _until_gone(self, guest: Guest, stored: StoredDomain, /) -> Ending:
        """Wait for the guest's end, or bring it about where we are cancelled, and give its locks back."""
        going = asyncio.ensure_future(until_gone(guest, self._context.clock))
        try:
            self._task.tell(stored.token)
            await asyncio.wait((going,))
        except BaseException:
            guest.kill()
            raise
        finally:
            ending = await undisturbed(self._end(guest, going))
        note("guest_ended", domain=self._task.domain, token=stored.token, stopped=ending.stopped)
        return ending

    async def _end(self, guest: Guest, going: asyncio.Future[ExitStatus], /) -> Ending:
        status = await going
        self._running = None
        stopped = self._was_stopped(guest, status)
        return Ending(status, stopped, await self._give_back())

    def _was_stopped(self, guest: Guest, status: ExitStatus, /) -> bool:
        """By us or by the guard, because its session could not be proven, or because its lock was taken meanwhile."""
        by_guard = status.signal == signal.SIGKILL and self._enforcer.overdue(guest)
        holding = self._ledger.holding(self._task.domain.uuid)
        has_lost = holding is None or bool(holding.stored.record.taken_over)
        return self._enforcer.stopped(guest) or by_guard or has_lost

    def _until(self) -> float:
        """The one deadline for all that is to be said to etcd at the end."""
        if self._end_by is None:
            self._end_by = self._context.clock.now() + self._task.answer_seconds
        return self._end_by

    async def _give_back(self) -> bool:
        """Release what is held. The guest is gone."""
        try:
            await self._ledger.release(self._task.domain.uuid, until=self._until())
        except EtcdlockError as error:
            note("not_released", level=logging.WARNING, domain=self._task.domain, error=error)
            return False
        return True

    async def _leave(self) -> None:
        """End the session; where an outcome is unknown or a lock could not be given back, say so with the obituary.

        The guest is gone by now, so the obituary is true.
        """
        await self._ledger.proven()
        self._left = await self._member.leave(unreleased=self._ledger.unreleased, until=self._until())


async def _cancelled(tasks: Sequence[asyncio.Future[Any]], /) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
