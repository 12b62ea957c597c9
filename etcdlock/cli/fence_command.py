"""Switch a host off by its fence agent, to free its locks.

The table [fence.HOST] of the settings says how HOST is switched off. Only if the fence agent then says that it is off,
the proof is written that its sessions have ended, with the fence agent's name, who has ordered it, and why. HOST is
refused while a session of it lives, unless --force says that it is to be switched off all the same, as where it hangs;
its guests die then. This host itself is never switched off.

With --check nothing is switched: the fence agent is only asked whether HOST is on or off.

Exits with 0 when all proofs stand, also if there was nothing left to prove; 2 if the cluster knows no such host or no
way to switch it off is set; 104 if it lives, or is this host; 101 if etcd is away; 102 if nobody has confirmed that it
is off: it may be.
"""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING, Annotated

import typer

from etcdlock.cli.common import Common, run_async
from etcdlock.cli.exits import Exit
from etcdlock.errors import InvalidInput

if TYPE_CHECKING:
    from etcdlock.config import Settings
    from etcdlock.documents import Document

USAGE = "[OPTIONS] HOST"


def command(
    common: Common,
    *,
    host: Annotated[str, typer.Argument(metavar="HOST", hidden=True)],
    force: Annotated[
        bool, typer.Option("--force", help="also if a session of it lives; its guests die. Needs --reason")
    ] = False,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="why, for the record")] = None,
    by: Annotated[str | None, typer.Option(metavar="NAME", help="who orders it, for the record [this user]")] = None,
    check: Annotated[bool, typer.Option("--check", help="only ask whether it is on or off")] = False,
) -> int:
    """Check, switch off and prove, or say why not."""
    from etcdlock.agent.breaking import words

    settings = common.settings()
    if check:
        return _check(common, settings, host)
    if force and reason is None:
        raise InvalidInput("fence: --force needs --reason: it may kill guests that run", hint="it is kept in etcd")
    who = words(_user() if by is None else by, name="--by", purpose="who orders it")
    why = words("ordered" if reason is None else reason, name="--reason", purpose="why")
    document = run_async(_fence(settings, host, by=who, reason=why, forced=force))
    common.show(document, otherwise=lambda: _print(document))
    return Exit.OK


async def _fence(settings: Settings, host: str, /, *, by: str, reason: str, forced: bool) -> Document:
    from etcdlock.agent.fencing import Order, fence
    from etcdlock.cli.switches import switches_of
    from etcdlock.documents import broken_document
    from etcdlock.model import SessionKind
    from etcdlock.wiring import host_id, make_context, open_store

    switches = switches_of(settings, host)
    async with open_store(settings) as store:
        context = make_context(settings, store, kind=SessionKind.RUN)
        order = Order(host=host, by=f"{by} on {host_id(settings)}", reason=reason, forced=forced)
        fenced = await fence(context, switches, order, answer_seconds=settings.answer_seconds)
    return broken_document(host, fenced.obituaries, fenced.freed)


def _check(common: Common, settings: Settings, host: str, /) -> int:
    from etcdlock.cli.switches import switches_of
    from etcdlock.ports import Power

    async def states() -> list[Document]:
        return [
            {"switch": switch.label, "power": power, "error": error or None}
            for switch in switches_of(settings, host)
            for power, error in (await switch.state(),)
        ]

    found = run_async(states())
    common.show({"target": host, "switches": found}, otherwise=lambda: _print_switches(found))
    return Exit.UNKNOWN if any(one["power"] == Power.UNKNOWN for one in found) else Exit.OK


def _user() -> str:
    """Whoever is at the keyboard."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _print_switches(found: list[Document], /) -> None:
    from etcdlock.identity import escaped

    for one in found:
        why = f": {one['error']}" if one["error"] else ""
        print(escaped(f"{one['switch']}: power is {one['power']}{why}"))


def _print(fenced: Document, /) -> None:
    from etcdlock.identity import escaped

    if not fenced["obituaries"]:
        nothing = "nothing was done: no lock names a session of it that is not proven dead already"
        print(escaped(f"{fenced['target']}: {nothing}"))
    for one in fenced["obituaries"]:
        print(escaped(f"{one['host']}/{one['session']}: dead, by {one['by']}: {one['reason']} ({one['proof']})"))
    for domain in fenced["freed"]:
        print(escaped(f"  domain {domain['name'] or domain['uuid']} can be taken over now"))
