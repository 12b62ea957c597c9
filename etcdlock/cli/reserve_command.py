"""Hold disks for a backup, a repair, a look into an image.

DOMAIN is the name or UUID of a domain that this host's libvirt knows, or a libvirt domain XML, whose name ends in .xml:
all of its disks are reserved, and shared if :readonly follows. No guest that needs one of the disks starts while they
are held, on any host. All of them are reserved, or none.

With COMMAND they are held until its last process is gone, and COMMAND is guarded like a guest: if this host can no
longer prove its session to etcd, it is stopped before anybody else could be given the disks. It finds its fencing token
in ETCDLOCK_TOKEN.

Without COMMAND they are held until standard input ends, or SIGTERM, SIGINT or SIGHUP comes. What uses the disks
meanwhile is not guarded: stop it as soon as this command ends.

Exits with COMMAND's own status, or 128 + N if signal N ended it; without COMMAND with 0. Etcdlock's own: 2 wrong input,
100 held elsewhere, 101 etcd away, 102 outcome unknown, 103 ended because the session was lost, 104 refused, 105
unreadable record, 106 access denied, 126 and 127 COMMAND cannot be executed or does not exist.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etcdlock.cli.common import Common, print_json
from etcdlock.cli.exits import Exit
from etcdlock.cli.tenure import Interrupted, report, run_task
from etcdlock.cli.via import ViaOption, agent_for
from etcdlock.cli.wanted import all_named, described, printable_name, read_file, seconds, whole
from etcdlock.errors import InvalidInput
from etcdlock.meeting import Purpose

if TYPE_CHECKING:
    from etcdlock.agent.solo import Ending, Task
    from etcdlock.config import Settings
    from etcdlock.domainxml import DomainXml
    from etcdlock.model import DomainId, Resource

USAGE = "[OPTIONS] [-- COMMAND [ARGUMENT]...]"
READONLY = ":readonly"
ENDED_BY = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_HELD_OPEN = Path(__file__).with_name("held_open.py")


def command(
    common: Common,
    *,
    what_runs: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]", hidden=True)] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|FILE.xml[:readonly]", help="all disks and leases of a domain; may be repeated"),
    ] = None,
    disk: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH[:qcow2][:shared|:readonly]", help="a disk, exclusive by default; may be repeated"
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="what others read who are refused", show_default=False)
    ] = "",
    wait: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="how long to wait for disks that others hold [0]", show_default=False),
    ] = 0.0,
    via: ViaOption = None,
) -> int:
    """Acquire, hold, release."""
    settings = common.settings(via=via)
    if not what_runs and sys.stdin is None:
        raise InvalidInput("standard input is closed: there is no end to wait for", hint="give a COMMAND, or a pipe")
    task = _task(
        settings,
        printable_name(name or _usual_name(what_runs)),
        _resources(settings, domains=domain or [], disks=disk or []),
        command=what_runs,
        wait_seconds=seconds(wait, option="--wait"),
        as_json=common.as_json,
    )
    agent = agent_for(settings, Purpose.RUN)
    try:
        ending = run_task(settings, task, agent=agent, action=settings.lost_action)
    except Interrupted as interrupted:
        return interrupted.status
    status = report(ending, task, by_agent=agent is not None)
    return Exit.OK if not what_runs and _was_told_to_end(ending) else status


def _task(
    settings: Settings,
    name: str,
    resources: tuple[Resource, ...],
    /,
    *,
    command: Sequence[str] | None,
    wait_seconds: float,
    as_json: bool,
) -> Task:
    from uuid import uuid4

    from etcdlock.agent.solo import Task
    from etcdlock.model import DomainId

    who = DomainId(uuid4(), name)
    tell: dict[str, Any] = {} if command else {"tell": partial(_tell, who, resources, as_json=as_json)}
    return Task(
        domain=who,
        resources=resources,
        command=command or (sys.executable, "-I", "-S", str(_HELD_OPEN)),
        environment={"ETCDLOCK_DOMAIN_UUID": str(who.uuid), "ETCDLOCK_DOMAIN_NAME": who.name},
        wait_seconds=wait_seconds,
        answer_seconds=settings.answer_seconds,
        **tell,
    )


def _usual_name(what_runs: Sequence[str] | None, /) -> str:
    return f"reserved for {Path(what_runs[0]).name}" if what_runs else "reserved"


def _was_told_to_end(ending: Ending, /) -> bool:
    return not ending.stopped and ending.status.signal in ENDED_BY


# --- what is wanted -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Domain:
    xml: DomainXml
    readonly: bool


def _resources(settings: Settings, /, *, domains: Sequence[str], disks: Sequence[str]) -> tuple[Resource, ...]:
    from etcdlock.identity import check_reservable, distinct, of_domain, with_readonly_rule

    found = [_domain(settings, text) for text in domains]
    *of_domains, own = all_named(settings, [one.xml for one in found], disks)
    wanted = [
        of_domain(named, one.xml.domain.name, readonly=one.readonly)
        for one, group in zip(found, of_domains, strict=True)
        for named in group
    ]
    return check_reservable(with_readonly_rule(distinct([*wanted, *own]), rule=settings.readonly_disks))


def _domain(settings: Settings, text: str, /) -> _Domain:
    from etcdlock.cli.definitions import domain_called
    from etcdlock.cli.host_facts import places
    from etcdlock.identity import escaped

    called = text.removesuffix(READONLY)
    if not called:
        raise InvalidInput(f"--domain '{text}' names no domain", hint="write NAME or FILE.xml, and :readonly behind it")
    if called.endswith(".xml"):
        return _Domain(read_file(settings, Path(called)), called != text)
    there = places(uid=os.geteuid(), environment=os.environ)
    parsed = whole(settings, domain_called(called, there, chains=settings.backing_chain != "none"))
    for warning in parsed.warnings:
        print(f"etcdlock: {escaped(parsed.source)}: warning: {warning}", file=sys.stderr)
    return _Domain(parsed, called != text)


# --- what is told ---------------------------------------------------------------------------------------------------


def _tell(who: DomainId, resources: Sequence[Resource], token: int, /, *, as_json: bool) -> None:
    """That they are held. Nobody need read it."""
    from etcdlock.documents import domain_document, resource_document
    from etcdlock.model import Mode

    held = [resource for resource in resources if resource.mode is not Mode.READ_ONLY]
    with suppress(OSError):
        if as_json:
            shown = [resource_document(resource) for resource in held]
            print_json({"reservation": domain_document(who), "token": token, "resources": shown})
        else:
            print(f"reserved until standard input ends, as {who}:", *map(described, held), sep="\n  ")
        sys.stdout.flush()
