"""One guest under the session of this host's agent: what `etcdlock run` does where an agent is up.

Guaranteed: the guest's process exists behind a closed gate before its locks are asked for; the gate opens only on the
agent's yes, which says that it is armed and in time. If no answer comes in time the guest never runs, and what was
taken for it is given back with its process's end. From its start on the guest is the agent's: this program only waits
for its end, whatever becomes of the agent meanwhile.

Not guaranteed: that a guest which was killed while no agent ran was killed by the guard. It is taken for that if it
happened when the guard was due.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import TypeVar

from etcdlock.agent.context import undisturbed
from etcdlock.agent.endings import End
from etcdlock.agent.parting import until_gone
from etcdlock.agent.solo import Ending, Task
from etcdlock.api.client import AgentClient
from etcdlock.api.lifeline import Lifeline
from etcdlock.errors import (
    EtcdlockError,
    HeldElsewhere,
    NoSuchGuest,
    NotReady,
    OutcomeUnknown,
    SessionLost,
    Unreachable,
)
from etcdlock.journal import note
from etcdlock.model import Owner
from etcdlock.ports import Clock, ExitStatus, Guest, Guests
from etcdlock.timing import Timing

T = TypeVar("T")

ASK_EVERY_SECONDS = 0.5


class Lodger:
    """Runs one task, once. `looking` is for questions that should be answered at once."""

    def __init__(
        self, client: AgentClient, task: Task, /, *, guests: Guests, clock: Clock, timing: Timing, looking: AgentClient
    ) -> None:
        self._client = client
        self._looking = looking
        self._task = task
        self._guests = guests
        self._clock = clock
        self._timing = timing
        self._lifeline = Lifeline(looking, clock)
        self._running: Guest | None = None
        self._has_run = False

    def signal(self, number: int, /) -> bool:
        """As `Solo.signal`."""
        if self._running is not None:
            self._running.signal(number)
        return self._has_run

    async def may_go_on(self) -> bool:
        """As `Solo.may_go_on`, by the agent's word, which must be fresh: we may be stopped while we wait for it."""
        asked_at = self._clock.now()
        try:
            await asyncio.to_thread(self._looking.unpark, self._task.domain.uuid)
        except EtcdlockError:  # it is asked again, and again
            return False
        return self._running is not None and self._clock.now() < asked_at + self._timing.guard_lag_seconds

    async def run(self) -> Ending:
        """Start, have it locked, let it run, wait for its end. Raises what the agent says."""
        following = asyncio.ensure_future(self._lifeline.keep())
        try:
            return await self._run()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _run(self) -> Ending:
        guest = await self._guests.start(self._task.command, environment=self._task.environment)
        try:
            token = await self._acquire(guest)
            guest.open_gate(token=token)  # nothing is awaited between the answer and this
        except NoSuchGuest:
            return Ending(await until_gone(guest, self._clock), stopped=False, released=True)  # killed behind its gate
        except BaseException:
            await undisturbed(self._put_away(guest))
            raise
        self._running, self._has_run = guest, True
        note("guest_started", domain=self._task.domain, pid=guest.pid, token=token)
        return await self._until_gone(guest, token)

    # --- starting --------------------------------------------------------------------------------------------------

    async def _acquire(self, guest: Guest, /) -> int:
        """The token. Asked again for as long as the task may wait: while others hold the locks, no answer comes, or the
        agent is starting or stopping.
        """
        begun = self._clock.now()
        held_until, away_until = begun + self._task.wait_seconds, begun + self._task.patience_seconds
        owner, unknown = Owner(self._task.domain, guest.pid), None
        while True:
            try:
                choice = self._task.on_session_lost
                asked = asyncio.to_thread(self._client.acquire, owner, self._task.resources, on_session_lost=choice)
                return int((await asked)["token"])
            except HeldElsewhere as refusal:
                if self._clock.now() >= held_until:
                    raise
                note("waiting", domain=self._task.domain, blockers=len(refusal.blockers))
            except (Unreachable, OutcomeUnknown, SessionLost, NotReady) as error:
                unknown = error if isinstance(error, OutcomeUnknown) else unknown
                if self._clock.now() >= away_until:
                    raise unknown or error from error
                note("attempt_failed", level=logging.WARNING, domain=self._task.domain, error=error)
            await self._clock.sleep(ASK_EVERY_SECONDS)

    async def _put_away(self, guest: Guest, /) -> None:
        """A guest that never ran."""
        guest.kill()
        await until_gone(guest, self._clock)
        await self._given_back()

    # --- ending ----------------------------------------------------------------------------------------------------

    async def _until_gone(self, guest: Guest, token: int, /) -> Ending:
        """Wait for the guest's end, or bring it about where we are cancelled, and for its locks to be given back."""
        going = asyncio.ensure_future(until_gone(guest, self._clock))
        try:
            self._task.tell(token)
            await asyncio.wait((going,))
        except BaseException:
            guest.kill()
            raise
        finally:
            ending = await undisturbed(self._end(guest, going))
        note("guest_ended", domain=self._task.domain, stopped=ending.stopped)
        return ending

    async def _end(self, guest: Guest, going: asyncio.Future[ExitStatus], /) -> Ending:
        status = await going
        ended_at, gone_since = self._clock.now(), self._lifeline.gone_since
        self._running = None
        released = await self._given_back()
        end = End.BY_ITSELF
        if status.signal == signal.SIGKILL:
            unattended = None if gone_since is None else ended_at - gone_since
            end = await self._end_of(guest, unattended_seconds=unattended)
        return Ending(status, end is End.STOPPED, released, in_doubt=end is End.NOT_KNOWN)

    async def _end_of(self, guest: Guest, /, *, unattended_seconds: float | None) -> End:
        """Who has killed it, as far as it can be known: only an agent that has watched it knows for sure."""
        if unattended_seconds is not None:
            is_due = unattended_seconds >= self._soonest_strike_seconds()
            return End.STOPPED if is_due else End.NOT_KNOWN
        uuid = self._task.domain.uuid
        told = await self._asked(lambda: self._looking.end_of(uuid, pid=guest.pid))
        return End.NOT_KNOWN if told is None else End(told)

    def _soonest_strike_seconds(self) -> float:
        """After the end of an agent that was well: its last proof was this much older at the most."""
        timing = self._timing
        return timing.stop_after_seconds - timing.renew_every_seconds - timing.try_timeout_seconds

    async def _given_back(self) -> bool:
        """Whether the agent has given back all of it. The guest is gone."""
        return await self._asked(lambda: self._client.release(self._task.domain.uuid)) is not None

    async def _asked(self, question: Callable[[], T], /) -> T | None:
        try:
            return await asyncio.to_thread(question)
        except EtcdlockError as error:
            note("not_answered", level=logging.WARNING, domain=self._task.domain, error=error)
            return None
