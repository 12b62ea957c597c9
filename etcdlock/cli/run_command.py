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

from pathlib import Path
from typing import Annotated

import typer

from etcdlock.cli.common import Common
from etcdlock.cli.tenure import Interrupted, report, run_task
from etcdlock.cli.via import ViaOption, agent_for
from etcdlock.cli.wanted import chosen_action, read_wanted, seconds
from etcdlock.escalation import Action
from etcdlock.meeting import Purpose

USAGE = "[OPTIONS] -- COMMAND [ARGUMENT]..."


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

    settings = common.settings(via=via)
    who, resources = read_wanted(settings, file=domain, uuid=domain_uuid, name=name, disks=disk or [])
    action = chosen_action(settings, file=domain, given=on_session_lost)
    task = Task(
        domain=who,
        resources=resources,
        command=guest_command,
        environment={"ETCDLOCK_DOMAIN_UUID": str(who.uuid), "ETCDLOCK_DOMAIN_NAME": who.name},
        wait_seconds=seconds(wait, option="--wait"),
        answer_seconds=settings.answer_seconds,
        on_session_lost=None if action is settings.lost_action else action,
    )
    agent = agent_for(settings, Purpose.RUN)
    try:
        ending = run_task(settings, task, agent=agent, action=action)
    except Interrupted as interrupted:
        return interrupted.status
    return report(ending, task, by_agent=agent is not None)
