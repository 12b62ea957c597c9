"""A cluster whose hosts have what real ones have: guards of their own, watchdogs, resets, programs that die at once.

What the promises rest on is kept here, too: without a watchdog, of a program and its guard only one is hurt at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from etcdlock.agent.host import HostAgent
from etcdlock.agent.kept_guard import KeptGuard, watchdog_was_left
from etcdlock.agent.solo import Ending, Solo, Task
from etcdlock.errors import EtcdlockError
from etcdlock.escalation import Action
from etcdlock.guarding import limits_of
from etcdlock.model import DomainId, Resource
from etcdlock.ports import Guard
from etcdlock.testing import FakeClock, FakeWatchdog, GuardLine, RuledGuard
from etcdlock.timing import Timing
from tests.promises.hypervisor import Hypervisor
from tests.promises.stalled import Stall
from tests.promises.world import PIDS_PER_RUN, Host, World
from tests.simulation.party import RESET, SETTLE_SECONDS, HandledGuests, Party, Wellness, is_well, now, pause_for

WATCHDOG_LATE_SECONDS = 0.2
YIELD_WITHIN_SECONDS = 6.0


class Machine(Hypervisor):
    """One boot of a host with agent and guards; with a watchdog where `watchdog_seconds` is not 0."""

    def __init__(
        self,
        cluster: Cluster,
        host: Host,
        *,
        death_seconds: float = 0.0,
        watchdog_seconds: float = 0.0,
        steered: FakeClock | None = None,
    ) -> None:
        super().__init__(cluster, host, death_seconds=death_seconds)
        self.guard.kill()  # ours come with the agent
        chance = cluster.fresh_chance()
        self.processes.look_seconds = lambda: chance.uniform(0.0, 0.02)
        self.cluster = cluster
        self.watchdog: FakeWatchdog | None = None
        if watchdog_seconds:
            self.watchdog = FakeWatchdog(watchdog_seconds, reset=self.reset, late_seconds=WATCHDOG_LATE_SECONDS)
        self.steered = steered
        self.guards: list[RuledGuard] = []
        self.is_off = False
        self.refusals: list[BaseException] = []
        self.well = Wellness()
        self._parts: list[asyncio.Future[Any]] = []
        self._mine: list[RuledGuard] = []
        self._kept: KeptGuard | None = None

    @property
    def timing(self) -> Timing:
        contract = self.world.timing
        return contract.watched(self.watchdog.seconds) if self.watchdog is not None else contract

    # --- its guards ------------------------------------------------------------------------------------------------

    def _new_line(self, *, waits: bool) -> GuardLine:
        guard = self.cluster.new_guard(
            self.host, timing=self.timing, steered=self.steered, watchdog=self.watchdog, waits=waits, is_slow=False
        )
        self.guards.append(guard)
        self._mine.append(guard)
        return GuardLine(guard, over=self.stall.over)

    def guard_for_agent(self) -> Guard:
        self._mine, self._parts = [], []

        async def start() -> GuardLine:
            return self._new_line(waits=True)

        watched = self.guards if self.watchdog is not None else []
        waits = watchdog_was_left((guard.lives, guard.watches) for guard in watched)
        kept = self._kept = KeptGuard(self._new_line(waits=waits), start=start, waits=waits)
        self._parts.append(asyncio.ensure_future(kept.keep()))
        return kept

    def start_agent(self) -> asyncio.Task[None]:
        earlier = [guard for guard in self.guards if guard.lives]
        running = super().start_agent()
        assert self.agent is not None
        assert self._kept is not None
        self._parts.append(asyncio.ensure_future(self._take_over_from(earlier, self.agent, self._kept, self.stall)))
        mine, parts = self._mine, self._parts
        running.add_done_callback(lambda task: self._program_ended(mine, parts, task))
        return running

    async def _take_over_from(
        self, earlier: list[RuledGuard], agent: HostAgent, kept: KeptGuard, stall: Stall
    ) -> None:
        """As `etcdlock agent` does once every inherited guest is armed."""
        await agent.all_inherited.wait()
        await stall.over()
        ours = {(resident.guest.pid, resident.guest.pid_start) for resident in agent.residents}
        await kept.knows_all()
        for guard in earlier:
            for guest in self.processes.started:
                name = (guest.pid, guest.pid_start)
                if name in guard.frozen and guest.frozen and name not in ours:
                    guest.kill()
            guard.give_way()
        for guard in earlier:
            try:
                async with asyncio.timeout(YIELD_WITHIN_SECONDS):
                    await guard.ended.wait()
            except TimeoutError:
                guard.kill()
            await stall.over()
        await agent.ledger.custody.earlier_guards_ended()
        self.well.guard_until = now() + SETTLE_SECONDS

    def _program_ended(
        self, mine: list[RuledGuard], parts: list[asyncio.Future[Any]], task: asyncio.Task[None] | None = None
    ) -> None:
        for part in parts:
            part.cancel()
        for guard in mine:
            guard.let_go(children=False)
        if task is not None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self.refusals.append(error)
            self.cluster.note_crash(self.host.name, task)

    # --- what happens to it ----------------------------------------------------------------------------------------

    @property
    def may_hurt_program(self) -> bool:
        if self.agent is None or self.stall.stalled:
            return False
        return self.watchdog is not None or (all(map(is_well, self._mine[-1:])) and now() >= self.well.program_until)

    @property
    def may_hurt_guard(self) -> bool:
        if not self._mine or self.is_off:
            return False
        if self.watchdog is not None:
            return True
        well = self.agent is not None and self.agent.all_inherited.is_set() and not self.stall.stalled
        return well and now() >= self.well.guard_until

    def kill_agent(self) -> None:
        if self.agent is None:
            return
        mine, parts = self._mine, self._parts
        super().kill_agent()
        self._program_ended(mine, parts)

    def stop_program(self) -> None:
        """SIGSTOP of the agent alone."""
        if self.may_hurt_program:
            self.stall.begin()

    def go_on(self) -> None:
        """SIGCONT."""
        if self.stall.stalled:
            self.well.guard_until = now() + SETTLE_SECONDS
        self.stall.end()

    def kill_program(self) -> None:
        """SIGKILL of the agent alone, if its guard is there to go on."""
        if self.may_hurt_program:
            self.kill_agent()

    def kill_guard(self) -> None:
        if self.may_hurt_guard and self._mine[-1].lives:
            self.well.program_until = now() + SETTLE_SECONDS
            self._mine[-1].kill()

    def pause_guard(self, seconds: float) -> None:
        if self.may_hurt_guard and is_well(self._mine[-1]):
            self.well.program_until = now() + seconds + SETTLE_SECONDS
            pause_for(self._mine[-1], seconds)

    def stall_before_next_feed(self, seconds: float) -> None:
        """Its guard stalls between having looked and feeding the watchdog."""
        guard = self._mine[-1]
        assert self.watchdog is not None

        def held(feed: Callable[[], None]) -> None:
            pause_for(guard, seconds)
            asyncio.get_running_loop().call_later(seconds, feed)

        self.watchdog.hold_next_feed(held)

    def reset(self) -> None:
        """Everything on it is dead at once."""
        if self.is_off:
            return
        self.is_off = True
        self.kill_agent()
        for guard in self.guards:
            guard.kill()
        if self.watchdog is not None:
            self.watchdog.stop()
        for guest in self.processes.started:
            guest.end(RESET)
        for party in self.cluster.parties:
            if party.host is self.host:
                party.reset()

    async def end(self) -> None:
        if self.watchdog is not None:
            self.watchdog.stop()
        for guard in self.guards:
            guard.kill()
        for part in self._parts:
            part.cancel()
        await super().end()


class Cluster(World):
    """Everything of one schedule."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.machines: list[Machine] = []
        self.crashes: list[str] = []

    @property
    def parties(self) -> list[Party]:
        return [run for run in self.runs if isinstance(run, Party)]

    def machine(self, host: Host, **options: Any) -> Machine:
        self.machines.append(Machine(self, host, **options))
        return self.machines[-1]

    def booted(self, was: Machine, *, boot: str) -> Machine:
        """The same machine after its reset."""
        again = self.machine(self.boot_again(was.host, boot=boot), death_seconds=was.processes.death_seconds)
        again.action = was.action
        return again

    def new_guard(
        self,
        host: Host,
        *,
        timing: Timing,
        steered: FakeClock | None = None,
        watchdog: FakeWatchdog | None = None,
        waits: bool = False,
        is_slow: bool = False,
    ) -> RuledGuard:
        chance, latest = self.fresh_chance(), 0.99 * timing.guard_lag_seconds
        return RuledGuard(
            host.clock,
            limits=limits_of(timing),
            lag_seconds=lambda: latest if is_slow or chance.random() < 0.5 else chance.uniform(0.0, latest),
            answer_seconds=lambda: chance.choice((0.0001, 0.001, 0.3)),
            steered=steered,
            watchdog=watchdog,
            waits=waits,
        )

    def solo(
        self,
        host: Host,
        who: DomainId,
        *disks: Resource,
        wait: float = 0.0,
        answer: float = 10.0,
        life: float | None = None,
        death: float = 0.0,
        action: Action = Action.KILL,
    ) -> Party:
        """`etcdlock run` on a host, with a guard process."""
        stall, watchers = Stall(), list[RuledGuard]()
        first_pid = PIDS_PER_RUN * (len(self.runs) + 1)
        guests = HandledGuests(stall, life_seconds=life, death_seconds=death, first_pid=first_pid)
        task = Task(
            domain=who, resources=disks, command=["guest"], environment={}, wait_seconds=wait, answer_seconds=answer
        )

        def line() -> GuardLine:
            watchers.append(self.new_guard(host, timing=self.timing, steered=self._steered(host)))
            return GuardLine(watchers[-1], over=stall.over)

        async def start() -> GuardLine:
            return line()

        context = host.context(contract=self.contract, chance=self.fresh_chance(), stall=stall)
        solo = Solo(
            replace(context, on_session_lost=action), task, guests=guests, guard=KeptGuard(line(), start=start)
        )
        ended = asyncio.ensure_future(solo.run())
        ended.add_done_callback(lambda task: self.note_crash(host.name, task))
        party = Party(host, task, guests, [], solo, ended, stall=stall, watchers=watchers)
        self.runs.append(party)
        return party

    def _steered(self, host: Host) -> FakeClock | None:
        return next((machine.steered for machine in self.machines if machine.host is host), None)

    def note_crash(self, name: str, task: asyncio.Task[None] | asyncio.Task[Ending]) -> None:
        """A program that ends by anything but its own kinds of errors."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, EtcdlockError | asyncio.CancelledError):
            self.crashes.append(f"a program on {name} ended by {error!r}")

    async def end(self) -> None:
        for party in self.parties:
            party.stall.end()
            for guest in party.guests.started:
                guest.end(RESET)
        await super().end()
        for party in self.parties:
            for watcher in party.watchers:
                watcher.kill()

