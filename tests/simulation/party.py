"""One guest under a program of its own, as `etcdlock run` is, with a guard: both can stop and die, each by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from etcdlock.ports import ExitStatus, Guest
from etcdlock.testing import FakeGuest, FakeGuests, RuledGuard
from tests.promises.stalled import Stall
from tests.promises.world import Run

RESET = 255
SETTLE_SECONDS = 2.5
"""How long the other of a program and its guard is left alone: by then another guard has taken over."""


class Handle:
    """A guest as the program has it that started it: nothing is done by it once that program is dead."""

    def __init__(self, bare: FakeGuest, stall: Stall) -> None:
        self.bare = bare
        self._stall = stall
        self.pid, self.pid_start, self.pidfd = bare.pid, bare.pid_start, bare.pidfd

    def open_gate(self, *, token: int) -> None:
        if not self._stall.killed:
            self.bare.open_gate(token=token)

    def signal(self, number: int, /) -> None:
        if not self._stall.killed:
            self.bare.signal(number)

    def kill(self) -> None:
        if not self._stall.killed:
            self.bare.kill()

    def freeze(self) -> None:
        if not self._stall.killed:
            self.bare.freeze()

    def go_on(self) -> None:
        if not self._stall.killed:
            self.bare.go_on()

    def stands(self) -> bool:
        return self.bare.stands()

    async def gone(self) -> ExitStatus:
        return await self.bare.gone()


class HandledGuests(FakeGuests):
    """Gives handles to the program."""

    def __init__(self, stall: Stall, **options: Any) -> None:
        super().__init__(**options)
        self._stall = stall

    async def start(self, command: Sequence[str], /, *, environment: Mapping[str, str]) -> Guest:
        await super().start(command, environment=environment)
        return Handle(self.started[-1], self._stall)


@dataclass(slots=True)
class Wellness:
    """Until when the one is left alone because the other was hurt; on the loop's clock."""

    program_until: float = 0.0
    guard_until: float = 0.0


@dataclass(slots=True)
class Party(Run):
    """A `Solo` with a stall and guards of its own."""

    stall: Stall = field(default_factory=Stall)
    watchers: list[RuledGuard] = field(default_factory=list)
    well: Wellness = field(default_factory=Wellness)

    @property
    def may_hurt_program(self) -> bool:
        return not self.ended.done() and all(map(is_well, self.watchers[-1:])) and now() >= self.well.program_until

    @property
    def may_hurt_guard(self) -> bool:
        busy = self.stall.stalled or self.stall.killed or self.ended.done()
        return not busy and now() >= self.well.guard_until

    def stop(self) -> None:
        """SIGSTOP."""
        if self.may_hurt_program:
            self.stall.begin()

    def go_on(self) -> None:
        """SIGCONT."""
        if self.stall.stalled:
            self.well.guard_until = now() + SETTLE_SECONDS
        self.stall.end()

    def kill(self) -> None:
        """SIGKILL."""
        if self.may_hurt_program:
            self._die()

    def _die(self) -> None:
        self.stall.kill()
        self.ended.cancel()
        for watcher in self.watchers:
            watcher.let_go(children=True)

    def kill_guard(self) -> None:
        if self.may_hurt_guard:
            self.well.program_until = now() + SETTLE_SECONDS
            self.watchers[-1].kill()

    def pause_guard(self, seconds: float) -> None:
        if self.may_hurt_guard and is_well(self.watchers[-1]):
            self.well.program_until = now() + seconds + SETTLE_SECONDS
            pause_for(self.watchers[-1], seconds)

    def reset(self) -> None:
        """With its host."""
        self._die()
        for watcher in self.watchers:
            watcher.kill()
        for guest in self.guests.started:
            guest.end(RESET)


def is_well(guard: RuledGuard) -> bool:
    """Whether it lives and is not paused."""
    return guard.lives and not guard.paused


def pause_for(guard: RuledGuard, seconds: float) -> None:
    """SIGSTOP, and SIGCONT some time later."""
    guard.pause()
    asyncio.get_running_loop().call_later(seconds, guard.go_on)


def now() -> float:
    """True time."""
    return asyncio.get_running_loop().time()
