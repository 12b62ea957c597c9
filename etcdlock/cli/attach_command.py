"""Lock a guest that was started while no agent ran.

GUEST is the name or UUID of a guest that libvirt runs here: libvirt's own records say which process it is and what it
needs. Or it is a libvirt domain XML, with --pid for the process. The agent takes all of its locks or none, and guards
the guest from then on.

A refusal means that another guest holds one of them while this one runs: two hosts may be writing one disk.

Exits with 0, or 2 if there is no such guest, 100 held elsewhere, 101 no agent or no etcd answers, 102 outcome unknown,
104 refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etcdlock.cli.common import Common
from etcdlock.cli.exits import Exit
from etcdlock.errors import InvalidInput
from etcdlock.meeting import AGENT_BEHIND_SECONDS

if TYPE_CHECKING:
    from etcdlock.config import Settings
    from etcdlock.model import Owner, Resource

USAGE = "[OPTIONS] GUEST"


def command(
    common: Common,
    *,
    guest: Annotated[str, typer.Argument(metavar="GUEST", hidden=True)],
    pid: Annotated[
        int | None, typer.Option(metavar="PID", help="the guest's process, with a domain XML", show_default=False)
    ] = None,
) -> int:
    """Find it, and have the agent lock it."""
    from etcdlock.api.client import AgentClient

    settings = common.settings()
    owner, resources = _find(settings, guest, pid=pid)
    client = AgentClient(settings.api_path, timeout_seconds=settings.acquire_seconds + AGENT_BEHIND_SECONDS)
    document = client.attach(owner, resources)
    common.show(document, otherwise=lambda: _print(owner, resources))
    return Exit.OK


def _find(settings: Settings, guest: str, /, *, pid: int | None) -> tuple[Owner, tuple[Resource, ...]]:
    if guest.endswith(".xml"):
        return _described(settings, Path(guest), pid=pid)
    return _run_by_libvirt(settings, guest, pid=pid)


def _described(settings: Settings, file: Path, /, *, pid: int | None) -> tuple[Owner, tuple[Resource, ...]]:
    from etcdlock.cli.wanted import read_wanted
    from etcdlock.model import Mode, Owner

    if pid is None or pid <= 0:
        raise InvalidInput("a domain XML does not say which process the guest is", hint="give --pid PID")
    domain, resources = read_wanted(settings, file=file, uuid=None, name="", disks=())
    return Owner(domain, pid), tuple(resource for resource in resources if resource.mode is not Mode.READ_ONLY)


def _run_by_libvirt(settings: Settings, guest: str, /, *, pid: int | None) -> tuple[Owner, tuple[Resource, ...]]:
    from etcdlock.cli.host_facts import guests_here
    from etcdlock.identity import escaped
    from etcdlock.model import Owner

    guests, unread = guests_here(settings)
    found = [one for one in guests if guest in (one.domain.name, str(one.domain.uuid))]
    if not found:
        raise InvalidInput(
            "\n".join((f"libvirt runs no guest '{escaped(guest)}' on this host", *map(escaped, unread))),
            hint="'virsh list' shows names; for a guest of another program give its domain XML and --pid",
        )
    (one, *_) = found
    if pid not in (None, one.process.pid):
        raise InvalidInput(f"guest {escaped(guest)} is process {one.process.pid} for libvirt, not {pid}")
    return Owner(one.domain, one.process.pid), one.resources


def _print(owner: Owner, resources: tuple[Resource, ...], /) -> None:
    from etcdlock.cli import tables
    from etcdlock.cli.wanted import described

    out = tables.console()
    out.print(tables.text(f"{owner} is locked and guarded:"), soft_wrap=True)
    for resource in resources:
        out.print(tables.text(f"  {described(resource)}"), soft_wrap=True)
