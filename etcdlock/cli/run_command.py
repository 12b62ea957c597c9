"""Run a command under the locks of a domain and its disks.

COMMAND is the guest: QEMU, or anything else that writes the disks. The locks are taken before it starts and given back
when its last process is gone. If this host can no longer prove its session to etcd, COMMAND is killed, or frozen until
etcd is back, before anybody else could be given the locks.

Where this host's agent is up, COMMAND is its guest like any other; else it gets a session of its own.

COMMAND finds its fencing token in ETCDLOCK_TOKEN, and the domain in ETCDLOCK_DOMAIN_UUID and ETCDLOCK_DOMAIN_NAME.
Without --domain and --domain-uuid the domain gets a UUID of its own, so that only its disks can be held by others.

Exits with COMMAND's own status, or 128 + N if signal N ended it. Etcdlock's own: 2 wrong input, 100 held elsewhere,
101 etcd away, 102 outcome unknown, 103 stopped because the session was lost, 104 refused, 105 unreadable record, 106
access denied, 126 and 127 COMMAND cannot be executed or does not exist.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etcdlock.cli.common import Common, run_async
from etcdlock.cli.exits import Exit
from etcdlock.cli.via import ViaOption, agent_for
from etcdlock.cli.wanted import chosen_action, read_wanted, seconds
from etcdlock.errors import InvalidInput
from etcdlock.escalation import Action
from etcdlock.meeting import LOOK_SECONDS, Purpose

if TYPE_CHECKING:
    from etcdlock.agent.solo import Ending, Solo, Task
    from etcdlock.api.client import AgentClient
    from etcdlock.api.lodger import Lodger
    from etcdlock.config import Settings

USAGE = "[OPTIONS] -- COMMAND [ARGUMENT]..."
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
NOT_TOLD = (
    "has ended, but etcd could not be told that its locks are free; "
    "others can take them over once this host's session has been missing for the hold-off"
)
NOT_GIVEN_BACK = "has ended, but its locks are not given back yet: this host's agent does that once it and etcd are up"


def command(
    common: Common,
    *,
    guest_command: Annotated[list[str], typer.Argument(metavar="COMMAND", hidden=True)],
    domain: Annotated[
        Path | None, typer.Option(metavar="FILE.xml", help="libvirt domain XML: says UUID, name, disks and leases")
    ] = None,
    domain_uuid: Annotated[str | None, typer.Option(metavar="UUID", help="the domain's UUID, without an XML")] = None,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="the domain's name, without an XML", show_default=False)
    ] = "",
    disk: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH[:qcow2][:shared|:readonly]", help="a disk to lock, exclusive by default; may be repeated"
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="how long to wait for locks that others hold [0]", show_default=False),
    ] = 0.0,
    on_session_lost: Annotated[
        Action | None,
        typer.Option(metavar="kill|freeze|command", help="what is done first with COMMAND if the session is lost"),
    ] = None,
    via: ViaOption = None,
) -> int:
    """Acquire, run, release."""
    from etcdlock.agent.solo import Task
    from etcdlock.cli.backlog import logging_in_background

    settings = common.settings(via=via)
    who, resources = read_wanted(settings, file=domain, uuid=domain_uuid, name=name, disks=disk or [])
    task = Task(
        domain=who,
        resources=resources,
        command=guest_command,
        environment={"ETCDLOCK_DOMAIN_UUID": str(who.uuid), "ETCDLOCK_DOMAIN_NAME": who.name},
        wait_seconds=seconds(wait, option="--wait"),
        answer_seconds=settings.answer_seconds,
    )
    action = chosen_action(settings, file=domain, given=on_session_lost)
    agent = _agent_for(settings, action)
    try:
        with logging_in_background():
            ending = run_async(_run_at(agent, settings, task) if agent else _run(settings, task, action=action))
    except Interrupted as interrupted:
        return 128 + interrupted.signal
    return _report(ending, task, by_agent=agent is not None)


def _agent_for(settings: Settings, action: Action, /) -> AgentClient | None:
    """The agent, unless the guest wants something else done at a lost session than this host's agent does."""
    if action is settings.lost_action:
        return agent_for(settings, Purpose.RUN)
    if settings.via == "agent":
        raise InvalidInput(
            f"on_session_lost is {settings.lost_action} for the agent's guests, and this one wants {action}",
            hint="leave out --via agent: the command then has a session and a guard of its own",
        )
    return None


class Interrupted(Exception):
    """A signal came before the guest ran; nothing was left behind."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


async def _run(settings: Settings, task: Task, /, *, action: Action) -> Ending:
    from etcdlock.adapters.processes import LocalGuests
    from etcdlock.agent.solo import Solo
    from etcdlock.guarding import start_guard
    from etcdlock.model import SessionKind
    from etcdlock.wiring import check_versions, make_context, open_store

    async with open_store(settings) as store:
        context = make_context(settings, store, kind=SessionKind.RUN, on_session_lost=action)
        await check_versions(settings, store)
        guests = LocalGuests()
        guard = await start_guard(settings, started=guests.spare)
        return await _heeding_signals(Solo(context, task, guests=guests, guard=guard))


async def _run_at(agent: AgentClient, settings: Settings, task: Task, /) -> Ending:
    from etcdlock.adapters.clock import BootClock
    from etcdlock.adapters.processes import LocalGuests
    from etcdlock.api.client import AgentClient
    from etcdlock.api.lodger import Lodger

    looking = AgentClient(settings.api_path, timeout_seconds=LOOK_SECONDS)
    timing = settings.contract.timing
    return await _heeding_signals(
        Lodger(agent, task, guests=LocalGuests(), clock=BootClock(), timing=timing, looking=looking)
    )


async def _heeding_signals(runner: Solo | Lodger, /) -> Ending:
    import asyncio

    ending_signals = _pass_on_signals(runner)
    try:
        return await runner.run()
    except asyncio.CancelledError:
        if ending_signals:
            raise Interrupted(ending_signals[0]) from None
        raise


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


def _report(ending: Ending, task: Task, /, *, by_agent: bool) -> int:
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
