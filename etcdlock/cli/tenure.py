"""One guest from its locks to its end, on the command line: under this host's agent or a session of its own.

What `etcdlock run` and `etcdlock reserve` have in common. Signals are passed on to the guest while it runs; before
that, those that ask a program to end end the waiting, and nothing is left behind.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from etcdlock.cli.common import run_async
from etcdlock.cli.exits import Exit
from etcdlock.meeting import LOOK_SECONDS

if TYPE_CHECKING:
    from etcdlock.adapters.processes import LocalGuests
    from etcdlock.agent.solo import Ending, Solo, Task
    from etcdlock.api.client import AgentClient
    from etcdlock.api.lodger import Lodger
    from etcdlock.config import Settings
    from etcdlock.escalation import Action

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
SOON_SECONDS = 0.2
NOT_TOLD = (
    "has ended, but etcd could not be told that its locks are free; "
    "others can take them over once this host's session has been missing for the hold-off"
)
NOT_GIVEN_BACK = "has ended, but its locks are not given back yet: this host's agent does that once it and etcd are up"


def run_task(settings: Settings, task: Task, /, *, agent: AgentClient | None, action: Action) -> Ending:
    """Acquire, run, release; without an agent in a session of its own. Raises `Interrupted`, and what refuses it."""
    from etcdlock.cli.backlog import logging_in_background

    with logging_in_background():
        return run_async(_run_at(agent, settings, task) if agent else _run(settings, task, action=action))


class Interrupted(Exception):
    """A signal came before the guest ran; nothing was left behind."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number

    @property
    def status(self) -> int:
        """As a shell says it."""
        return 128 + self.signal


async def _run(settings: Settings, task: Task, /, *, action: Action) -> Ending:
    from etcdlock.adapters.processes import LocalGuests
    from etcdlock.agent.solo import Solo
    from etcdlock.escalation import Action
    from etcdlock.guarding import start_guard
    from etcdlock.model import SessionKind
    from etcdlock.wiring import check_versions, make_context, open_store

    if settings.is_shadow:
        settings = settings.for_real()
        _say(task, f"is locked for real, in cluster {settings.cluster}: only the agent has a shadow mode")
    async with open_store(settings) as store:
        context = make_context(settings, store, kind=SessionKind.RUN, on_session_lost=action)
        await check_versions(settings, store)
        guests = LocalGuests()
        guard = await start_guard(settings, started=guests.spare)
        left = settings.contract.timing.stop_after_seconds - settings.contract.timing.renew_every_seconds
        done = {Action.FREEZE: "frozen", Action.COMMAND: "stopped by its command"}.get(action, "killed")
        suspended = f"is suspended, and nobody keeps its session: unless it goes on within {left:.0f} s it is {done}"
        runner = Solo(context, task, guests=guests, guard=guard)
        return await _heeding_signals(runner, guests, lambda: _say(task, suspended))


async def _run_at(agent: AgentClient, settings: Settings, task: Task, /) -> Ending:
    from etcdlock.adapters.clock import BootClock
    from etcdlock.adapters.processes import LocalGuests
    from etcdlock.api.client import AgentClient
    from etcdlock.api.lodger import Lodger

    looking = AgentClient(settings.api_path, timeout_seconds=LOOK_SECONDS)
    guests = LocalGuests()
    runner = Lodger(agent, task, guests=guests, clock=BootClock(), timing=settings.contract.timing, looking=looking)
    return await _heeding_signals(runner, guests, lambda: _say(task, "is suspended; it keeps its locks"))


async def _heeding_signals(runner: Solo | Lodger, guests: LocalGuests, say_suspended: Callable[[], None], /) -> Ending:
    import asyncio

    _stop_together(runner, guests, say_suspended)
    ending_signals = _pass_on_signals(runner)
    try:
        return await runner.run()
    except asyncio.CancelledError:
        if ending_signals:
            raise Interrupted(ending_signals[0]) from None
        raise


def _stop_together(runner: Solo | Lodger, guests: LocalGuests, say_suspended: Callable[[], None], /) -> None:
    """Where the terminal stops the guest (Ctrl-Z) our group, which a shell waits for, stops and goes on with it.

    A group that nobody could let go on (orphaned) is not stopped by this, and the guest goes on at once.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    under_way: list[asyncio.Task[None]] = []

    def look() -> None:
        if guests.step_back():
            say_suspended()
            os.killpg(os.getpgrp(), signal.SIGTSTP)
            loop.call_later(SOON_SECONDS, go_on)

    def go_on() -> None:
        if all(task.done() for task in under_way):
            under_way[:] = [loop.create_task(until_on())]

    async def until_on() -> None:
        while guests.is_back:
            if await runner.may_go_on():
                guests.come_back()
            else:
                await asyncio.sleep(SOON_SECONDS)

    loop.add_signal_handler(signal.SIGCHLD, look)
    loop.add_signal_handler(signal.SIGCONT, go_on)


def _pass_on_signals(runner: Solo | Lodger, /) -> list[int]:
    """To the guest while it runs; before that, one that asks us to end ends the waiting and is put on the list."""
    import asyncio

    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    ending_signals: list[int] = []

    def handle(number: signal.Signals) -> None:
        if not runner.signal(number) and main is not None and number not in (signal.SIGUSR1, signal.SIGUSR2):
            ending_signals.append(number)
            main.cancel()

    for number in PASSED_ON:
        loop.add_signal_handler(number, handle, number)
    return ending_signals


def report(ending: Ending, task: Task, /, *, by_agent: bool) -> int:
    """Say what must be known of its end; the exit code."""
    if not ending.released:
        _say(task, NOT_GIVEN_BACK if by_agent else NOT_TOLD)
    if ending.in_doubt:
        _say(task, "was killed, and nobody can tell whether for a lost session: the agent has not seen its end")
    if ending.stopped:
        _say(task, "was stopped: this host could not prove its session to etcd any more")
        return Exit.SESSION_LOST
    return 128 + ending.status.signal if ending.status.signal else ending.status.code


def _say(task: Task, what: str, /) -> None:
    print(f"etcdlock: domain {task.domain} {what}", file=sys.stderr)
