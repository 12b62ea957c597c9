"""Run COMMAND as a guest that holds the locks of a domain and its disks.

The locks are taken before the command starts and given back when its last process is gone. If the session in etcd can no
longer be proven, the command is killed before anybody else could be given the locks. The command finds its fencing token
in ETCDLOCK_TOKEN. Exits with the command's status, or 128 + N if signal N ended it; 100 and up are etcdlock's own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID, uuid4

import typer

from etcdlock.cli.common import Common
from etcdlock.cli.exits import Exit
from etcdlock.errors import InvalidInput

if TYPE_CHECKING:
    from etcdlock.agent.solo import Ending, Solo, Task
    from etcdlock.config import Settings
    from etcdlock.identity import Named, ResourceName
    from etcdlock.model import DomainId

    Identify = Callable[[str], ResourceName]

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def command(
    common: Common,
    *,
    guest_command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="what to run, behind --")],
    domain: Annotated[Path | None, typer.Option(metavar="FILE.xml", help="libvirt domain XML: UUID, name, disks")] = None,
    domain_uuid: Annotated[str | None, typer.Option(metavar="UUID", help="the domain's UUID, without an XML")] = None,
    name: Annotated[str, typer.Option(help="the domain's name, with --domain-uuid")] = "",
    disk: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH[:shared|:readonly]", help="a disk to lock, exclusive by default; may be repeated"),
    ] = None,
    wait: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="wait that long for locks others hold")] = 0.0,
) -> int:
    """Acquire, run, release."""
    settings = common.settings()
    task = _task(settings, guest_command, domain=domain, uuid=domain_uuid, name=name, disks=disk or [], wait=wait)
    try:
        ending = asyncio.run(_run(settings, task))
    except Interrupted as interrupted:
        return 128 + interrupted.signal
    return _report(ending, task)


class Interrupted(Exception):
    """A signal came before the guest ran; nothing was left behind."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


def _task(
    settings: Settings,
    guest_command: list[str],
    /,
    *,
    domain: Path | None,
    uuid: str | None,
    name: str,
    disks: list[str],
    wait: float,
) -> Task:
    from etcdlock.agent.solo import Task
    from etcdlock.identity import DiskIdentity, distinct, identify_path, with_readonly_rule

    identify = partial(identify_path, rule=DiskIdentity(settings.disk_identity))
    who, wanted = _domain(domain, uuid=uuid, name=name, identify=identify)
    wanted += tuple(_disk(argument, identify=identify) for argument in disks)
    if not wanted and domain is None and uuid is None:
        raise InvalidInput("run: nothing to lock", hint="give --domain FILE.xml, --domain-uuid UUID or --disk PATH")
    return Task(
        domain=who,
        resources=with_readonly_rule(distinct(wanted), rule=settings.readonly_disks),
        command=guest_command,
        environment={"ETCDLOCK_DOMAIN_UUID": str(who.uuid), "ETCDLOCK_DOMAIN_NAME": who.name},
        wait_seconds=wait,
        answer_seconds=settings.answer_seconds,
    )


def _domain(
    file: Path | None, /, *, uuid: str | None, name: str, identify: Identify
) -> tuple[DomainId, tuple[Named, ...]]:
    from etcdlock.domainxml import named_of, parse_domain
    from etcdlock.model import DomainId

    if file is not None and (uuid is not None or name):
        raise InvalidInput("run: --domain already says UUID and name", hint="leave out --domain-uuid and --name")
    if file is None:
        return DomainId(_uuid(uuid), name), ()
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"--domain {file}: {error.strerror}") from error
    parsed = parse_domain(text, source=str(file))
    for warning in parsed.warnings:
        print(f"etcdlock: {file}: warning: {warning}", file=sys.stderr)
    return parsed.domain, named_of(parsed, identify=identify)


def _uuid(text: str | None, /) -> UUID:
    """The domain's UUID; where none is given, one of its own: then only its disks can collide with anything."""
    if text is None:
        return uuid4()
    try:
        return UUID(text)
    except ValueError:
        raise InvalidInput(f"--domain-uuid {text!r}: not a UUID", hint="as in `virsh domuuid`") from None


def _disk(argument: str, /, *, identify: Identify) -> Named:
    from etcdlock.identity import Named, parse_disk_argument
    from etcdlock.model import Resource

    given = parse_disk_argument(argument)
    path = os.path.join(Path.cwd(), given.path)
    called = identify(path)
    return Named(f"--disk {argument}", Resource(called.lockspace, called.name, given.mode, path))


async def _run(settings: Settings, task: Task, /) -> Ending:
    from etcdlock.adapters.processes import LocalGuests
    from etcdlock.agent.solo import Solo
    from etcdlock.cli.wiring import check_versions, make_context, open_store, start_guard
    from etcdlock.model import SessionKind

    async with open_store(settings) as store:
        context = make_context(settings, store, kind=SessionKind.RUN)
        for warning in await check_versions(settings, store):
            print(f"etcdlock: warning: {warning}", file=sys.stderr)
        guests = LocalGuests()
        guard = await start_guard(context.timing, guests)
        solo = Solo(context, task, guests=guests, guard=guard)
        ending_signals = _pass_on_signals(solo)
        try:
            return await solo.run()
        except asyncio.CancelledError:
            if ending_signals:
                raise Interrupted(ending_signals[0]) from None
            raise


def _pass_on_signals(solo: Solo, /) -> list[int]:
    """To the guest while it runs; before that, one that asks us to end ends the waiting and is put on the list."""
    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    ending_signals: list[int] = []

    def handle(number: signal.Signals) -> None:
        if not solo.signal(number) and main is not None and number not in (signal.SIGUSR1, signal.SIGUSR2):
            ending_signals.append(number)
            main.cancel()

    for number in PASSED_ON:
        loop.add_signal_handler(number, handle, number)
    return ending_signals


def _report(ending: Ending, task: Task, /) -> int:
    if not ending.released:
        print(
            f"etcdlock: domain {task.domain}: etcd could not be told that its locks are free; "
            "others can take them over once this host's session has been missing for the hold-off",
            file=sys.stderr,
        )
    if ending.stopped:
        print(
            f"etcdlock: domain {task.domain} was stopped: this host could not prove its session to etcd any more",
            file=sys.stderr,
        )
        return Exit.SESSION_LOST
    return 128 + ending.status.signal if ending.status.signal else ending.status.code
