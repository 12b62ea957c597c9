"""Lock all guests that libvirt runs here already.

For guests that were started under another lock driver (virtlockd, sanlock, none): they go on running, and from now on
the agent holds their locks in etcd and guards them. Each is taken by itself, with all of its disks or none; one that is
refused keeps no other from it, and is told with whatever holds its disks: two hosts may be writing them.

Without GUEST every guest is taken whose vCPUs run; one that stands still, as while it migrates in, only if it is named.
With --dry-run nothing is locked.

Exits with 0 if all of them are locked now; 100 if another holds something of one of them; 2 if there is no such guest;
101 if no agent or no etcd answers, 102 outcome unknown, 104 refused for another reason.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etcdlock.cli.common import Common
from etcdlock.cli.exits import Exit, exit_for
from etcdlock.errors import EtcdlockError, HeldElsewhere, InvalidInput
from etcdlock.meeting import AGENT_BEHIND_SECONDS

if TYPE_CHECKING:
    from etcdlock.api.client import AgentClient
    from etcdlock.cli.host_facts import SeenGuest
    from etcdlock.documents import Document

USAGE = "[OPTIONS] [GUEST]..."

LOCKED, ALREADY, CONFLICT, STANDS, FAILED, WOULD = (
    "locked", "locked already", "held elsewhere", "stands still", "not locked", "would be locked"
)  # fmt: skip


def command(
    common: Common,
    *,
    guest: Annotated[list[str] | None, typer.Argument(metavar="[GUEST]...", hidden=True)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="lock nothing; only list what would be")] = False,
) -> int:
    """Find them, have the agent lock each, and report."""
    from etcdlock.api.client import AgentClient
    from etcdlock.cli.host_facts import guests_here

    settings = common.settings()
    client = AgentClient(settings.api_path, timeout_seconds=settings.acquire_seconds + AGENT_BEHIND_SECONDS)
    guests, unread = guests_here(settings)
    chosen = choose(guests, guest or [], unread=unread)
    outcomes = [adopt(client, one, named=bool(guest), dry_run=dry_run) for one in chosen]
    document = {"guests": [outcome for outcome, _ in outcomes], "unread": list(unread)}
    common.show(document, otherwise=lambda: _print(document))
    return worst([*(code for _, code in outcomes), *([Exit.USAGE] if unread and not guest else [])])


def choose(
    guests: Sequence[SeenGuest], names: Sequence[str], /, *, unread: Sequence[str]
) -> tuple[SeenGuest, ...]:
    """Those that are named, or all. Raises `InvalidInput` before anything is locked if one does not run here."""
    from etcdlock.identity import escaped

    known = {word: one for one in guests for word in (one.domain.name, str(one.domain.uuid))}
    missing = [escaped(name) for name in names if name not in known]
    if missing:
        lines = (f"libvirt runs no guest {', '.join(map(repr, missing))} on this host", *map(escaped, unread))
        raise InvalidInput("\n".join(lines), hint="'virsh list' shows names; nothing was locked")
    return tuple(dict.fromkeys(known[name] for name in names)) if names else tuple(guests)


def adopt(client: AgentClient, one: SeenGuest, /, *, named: bool, dry_run: bool) -> tuple[Document, Exit]:
    """What became of one guest. What etcd or the agent cannot tell is not taken for a no."""
    from etcdlock.model import Owner

    if not one.vcpus_run and not named:
        return _outcome(one, STANDS, "name it to have it locked, if it does not migrate in"), Exit.OK
    if _is_held(client, one):
        return _outcome(one, ALREADY), Exit.OK
    if dry_run:
        return _outcome(one, WOULD), Exit.OK
    try:
        client.attach(Owner(one.domain, one.process.pid), one.resources)
    except HeldElsewhere as error:
        return _outcome(one, CONFLICT, str(error)), Exit.HELD_ELSEWHERE
    except EtcdlockError as error:
        return _outcome(one, FAILED, str(error)), exit_for(error)
    return _outcome(one, LOCKED), Exit.OK


def worst(codes: Iterable[Exit], /) -> Exit:
    """A conflict before anything else: data is in danger."""
    found = set(codes)
    return Exit.HELD_ELSEWHERE if Exit.HELD_ELSEWHERE in found else max(found, default=Exit.OK)


def _is_held(client: AgentClient, one: SeenGuest, /) -> bool:
    """Whether the agent has it, and all that it needs."""
    for held in client.agent()["guests"] or ():
        if held["domain"]["uuid"] == str(one.domain.uuid) and held["pid"] == one.process.pid and held["state"]:
            names = {(item["lockspace"], item["name"]) for item in held["resources"]}
            return all((item.lockspace, item.name) in names for item in one.resources)
    return False


def _outcome(one: SeenGuest, outcome: str, detail: str = "", /) -> dict[str, Any]:
    from etcdlock.documents import domain_document, resource_document

    return {
        "domain": domain_document(one.domain),
        "pid": one.process.pid,
        "outcome": outcome,
        "detail": detail or None,
        "resources": [resource_document(item) for item in one.resources],
    }


def _print(adopted: Document, /) -> None:
    from etcdlock.cli import tables

    out = tables.console()
    for one in adopted["guests"]:
        name = one["domain"]["name"] or one["domain"]["uuid"]
        out.print(tables.text(f"{name} (process {one['pid']}): {one['outcome']}"), soft_wrap=True)
        for line in (one["detail"] or "").splitlines():
            out.print(tables.text(f"  {line}"), soft_wrap=True)
    for line in adopted["unread"]:
        out.print(tables.text(f"could not be read: {line}", style="bold red"), soft_wrap=True)
    if not adopted["guests"] and not adopted["unread"]:
        whose = "" if os.geteuid() == 0 else " of this user's"  # root sees those of the system
        out.print(f"libvirt runs no guest{whose} on this host.")
