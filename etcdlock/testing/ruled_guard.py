"""The guard process on a fake host: the very rules of the real one (`etcdlock.guard.rules`), in virtual time.

It goes on whatever becomes of the program it serves, and can be paused and killed on its own. `GuardLine` is the end of
its socket that the program has; what was sent there is obeyed though the program dies meanwhile.

Not modelled: processes of a guest apart from each other, and commands: a command has ended as soon as it was started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from etcdlock.errors import GuardLost, SessionLost
from etcdlock.escalation import KILLED, Charge, Sight, Stage
from etcdlock.guard import rules
from etcdlock.guard.instant import Reading
from etcdlock.guard.table import Name
from etcdlock.ports import Clock, ExitStatus, Guard, Guest, GuestName
from etcdlock.testing.fake_watchdog import FakeWatchdog

LONGEST_WAIT_SECONDS = 3600.0
LOOK_EVERY_SECONDS = 0.2
"""Where two clocks disagree: the one that moves more need not be the one that is slept by."""
ANSWER_WITHIN_SECONDS = 1.0
ASK_EVERY_SECONDS = 0.1
"""For a watchdog that another has, or that may not be opened yet."""

Order = Callable[[], rules.Refusal | None]


def prompt() -> float:
    """No delay at all."""
    return 0.0


class RuledGuard:
    """The process. `lag_seconds` is drawn each time that something is due: how late it is scheduled.

    `answer_seconds` is drawn for each order; `steered` is the host's second clock, which a time daemon may bend.
    """

    def __init__(
        self,
        clock: Clock,
        /,
        *,
        limits: rules.Limits,
        lag_seconds: Callable[[], float] = prompt,
        answer_seconds: Callable[[], float] = prompt,
        steered: Clock | None = None,
        watchdog: FakeWatchdog | None = None,
        waits: bool = False,
    ) -> None:
        self._clock = clock
        self._steered = steered or clock
        self._longest_wait_seconds = LOOK_EVERY_SECONDS if steered else LONGEST_WAIT_SECONDS
        self._state = rules.State(limits)
        self._lag_seconds = lag_seconds
        self._answer_seconds = answer_seconds
        self._watchdog = watchdog
        self._guests: dict[Name, Guest] = {}
        self._gone: dict[Name, asyncio.Future[ExitStatus]] = {}
        self._frozen: set[Name] = set()
        self._changed = asyncio.Event()
        self._awake = asyncio.Event()
        self._awake.set()
        self._is_alone = self._yields = False
        self._feed_at = 0.0
        self.ended = asyncio.Event()
        self._waits = waits
        self.watches = watchdog is not None and not waits
        """Whether it had the host's watchdog from its start."""
        self._has_watchdog = self.watches and watchdog is not None and watchdog.open(self)
        self._tasks: set[asyncio.Task[Any]] = {asyncio.ensure_future(self._keep())}

    # --- what a test does to it, and sees -----------------------------------------------------------------------------

    @property
    def lives(self) -> bool:
        """Whether the process is there, paused or not."""
        return not self.ended.is_set()

    @property
    def paused(self) -> bool:
        """Whether it is stopped, as by SIGSTOP."""
        return not self._awake.is_set()

    @property
    def guests(self) -> Mapping[Name, rules.Armed]:
        """Whom it guards, and what was done about each."""
        return self._state.guests

    @property
    def frozen(self) -> frozenset[GuestName]:
        """The guests that it has told to stand, and not to go on since."""
        return frozenset((name.pid, name.start) for name in self._frozen)

    def pause(self) -> None:
        """SIGSTOP."""
        self._awake.clear()

    def go_on(self) -> None:
        """SIGCONT."""
        self._awake.set()

    def kill(self) -> None:
        """SIGKILL: whatever it guarded runs on, and its watchdog too."""
        self.ended.set()
        if self._watchdog is not None:
            self._watchdog.dropped(self)
        for task in (*self._tasks, *self._gone.values()):
            task.cancel()

    # --- what its program asks for ------------------------------------------------------------------------------------

    async def obey(self, order: Order, /) -> rules.Refusal | None:
        """Raises `GuardLost` if it dies, or does not come to it in time; then it may yet do it."""
        if not self.lives:
            raise GuardLost("the guard is dead")
        doing = asyncio.ensure_future(self._do(order))
        self._tasks.add(doing)
        doing.add_done_callback(self._tasks.discard)
        await asyncio.wait((doing,), timeout=ANSWER_WITHIN_SECONDS)
        if not doing.done() or doing.cancelled():
            raise GuardLost("the guard does not answer")
        return doing.result()

    async def _do(self, order: Order) -> rules.Refusal | None:
        await asyncio.sleep(self._answer_seconds())
        await self._awake.wait()
        refusal = order()
        self._changed.set()
        return refusal

    def arm(self, guest: Guest, session: str, charge: Charge) -> rules.Refusal | None:
        """An order: take it in, or move it to another session."""
        return self._take_in(
            guest, rules.arm(self._state, _name(guest), session=session, charge=charge, now=self._read())
        )

    def hold(self, guest: Guest, session: str, charge: Charge) -> rules.Refusal | None:
        """An order: take in what stands already."""
        refusal = self._take_in(
            guest, rules.hold(self._state, _name(guest), session=session, charge=charge, now=self._read())
        )
        if refusal is None:
            guest.freeze()
            self._frozen.add(_name(guest))
        return refusal

    def _take_in(self, guest: Guest, answer: rules.State | rules.Refusal) -> rules.Refusal | None:
        if isinstance(answer, rules.Refusal):
            return answer
        self._state = answer
        self._guests[_name(guest)] = guest
        if _name(guest) not in self._gone:
            self._gone[_name(guest)] = asyncio.ensure_future(guest.gone())
        return None

    def let_run(self, guest: Guest) -> rules.Refusal | None:
        """An order: what was frozen goes on, if it was armed anew."""
        refusal = rules.may_go_on(self._state, _name(guest), now=self._read())
        if refusal is None:
            guest.go_on()
            self._frozen.discard(_name(guest))
        return refusal

    def prove(self, session: str, at: float) -> None:
        """An order: its guests have time from then on."""
        self._state = rules.prove(self._state, session, at_seconds=at, now=self._read())

    def watch(self) -> None:
        """An order: the watchdog waits no longer, but until it may be opened."""
        self._waits = False
        self._ask_for_watchdog()

    def disarm(self, name: Name) -> None:
        """An order: forget it."""
        self._state = rules.disarm(self._state, name)
        self._guests.pop(name, None)
        self._frozen.discard(name)
        if name in self._gone:
            self._gone.pop(name).cancel()

    def let_go(self, *, children: bool) -> None:
        """Its program is gone; `children`: that had started the guests itself, and nobody else may let them run."""
        self._is_alone = True
        if children:
            self._state = rules.abandon(self._state, self._state.guests)
        self._changed.set()

    def give_way(self) -> None:
        """Another guards all of it by now: end, once what is being stopped here is gone."""
        self._yields = True
        self._changed.set()

    # --- its loop -----------------------------------------------------------------------------------------------------

    def _read(self) -> Reading:
        return Reading(self._clock.now(), self._steered.now())

    async def _keep(self) -> None:
        while not self._is_over():
            await self._until_due()
            await asyncio.sleep(self._lag_seconds())
            await self._awake.wait()
            self._forget_the_gone()
            self._act()
            self._feed()
        self.ended.set()
        if self._watchdog is not None:
            self._watchdog.closed(self, for_good=not self._state.guests)

    def _is_over(self) -> bool:
        ending = any(armed.stage in (Stage.STOPPING, Stage.COMMANDED) for armed in self._state.guests.values())
        return self._is_alone and (not self._state.guests or (self._yields and not ending))

    async def _until_due(self) -> None:
        self._changed.clear()
        waits = [rules.wait_seconds(self._state, now=self._read())]
        if self._watchdog is not None and not self._waits:
            waits.append(max(self._feed_at - self._clock.now(), 0.0) if self._has_watchdog else ASK_EVERY_SECONDS)
        due = (min(wait, self._longest_wait_seconds) for wait in waits if wait is not None)
        seconds = min(due, default=LONGEST_WAIT_SECONDS)
        sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((sleeping, changed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            changed.cancel()

    def _forget_the_gone(self) -> None:
        for name in [name for name, gone in self._gone.items() if gone.done()]:
            self.disarm(name)

    def _act(self) -> None:
        now = self._read()
        seen = {name for name, armed in self._state.guests.items() if armed.stage is not Stage.RUNNING}
        seen |= set(rules.overdue_to_freeze(self._state, now=now))
        sights = {name: Sight(stands=self._guests[name].stands()) for name in seen}
        due = rules.tick(self._state, now=now, sights=sights)
        self._state = due.state
        for name in due.strike:
            self._guests[name].kill()
        for name in due.freeze:
            self._guests[name].freeze()
            self._frozen.add(name)

    def _ask_for_watchdog(self) -> None:
        watchdog = self._watchdog
        may = watchdog is not None and not (self._has_watchdog or self._waits)
        if may and watchdog is not None and rules.may_open(self._state, now=self._read()):
            self._has_watchdog = watchdog.open(self)

    def _feed(self) -> None:
        """By the same rule, and as often, as the real one; a pause may come between the answer and the feeding."""
        self._ask_for_watchdog()
        watchdog = self._watchdog
        if watchdog is None or not self._has_watchdog or self._clock.now() < self._feed_at:
            return
        every = min(self._state.limits.feed_every_seconds, watchdog.seconds / 4)
        self._feed_at = self._clock.now() + every
        if rules.may_feed(self._state, watchdog_seconds=watchdog.seconds, now=self._read()):
            watchdog.feed(self)


class GuardLine(Guard):
    """The program's end. `over` waits for as long as the program itself is paused."""

    def __init__(self, guard: RuledGuard, /, *, over: Callable[[], Awaitable[None]]) -> None:
        self.guard = guard
        self._over = over

    @property
    def frozen(self) -> frozenset[GuestName]:
        """Those that it has told to stand."""
        return self.guard.frozen

    async def arm(self, guest: Guest, /, *, session: str, charge: Charge = KILLED) -> None:
        await self._ask(partial(self.guard.arm, _bare(guest), session, charge))

    async def hold(self, guest: Guest, /, *, session: str, charge: Charge) -> None:
        """Take in what stands already."""
        await self._ask(partial(self.guard.hold, _bare(guest), session, charge))

    async def go_on(self, guest: Guest, /) -> None:
        await self._ask(partial(self.guard.let_run, _bare(guest)))

    async def prove(self, session: str, /, *, at: float) -> None:
        await self._ask(partial(self.guard.prove, session, at))

    async def watch(self) -> str:
        """Have it open the watchdog."""
        await self._ask(self.guard.watch)
        return ""

    async def disarm(self, guest: Guest, /) -> None:
        await self._ask(partial(self.guard.disarm, _name(guest)))

    async def close(self) -> None:
        """Let go of it; it ends once it has nobody left to guard."""
        self.guard.let_go(children=False)

    def kill(self) -> None:
        """End it at once, whatever it guards."""
        self.guard.kill()

    async def died(self) -> None:
        """Come back when it is no more."""
        await self.guard.ended.wait()
        await self._over()

    async def _ask(self, order: Order) -> None:
        await self._over()
        try:
            refusal = await self.guard.obey(order)
        finally:
            await self._over()
        if refusal is not None:
            raise SessionLost(f"the guard refuses: {refusal.value}")


def _name(guest: Guest) -> Name:
    return Name(guest.pid, guest.pid_start)


def _bare(guest: Guest) -> Guest:
    """The process itself, where a program has it by a handle that dies with the program."""
    bare: Guest = getattr(guest, "bare", guest)
    return bare
