"""Declare a host that is OFF dead, to free its locks at once.

VERIFY FIRST THAT THE HOST IS OFF: power it down, or look at it. Etcdlock cannot check that. If a guest of it still
runs, two hosts will write one disk and destroy it.

For every session of HOST that has no key any more and is still named by a lock this writes the proof of its end, with
who confirmed it and why, for good. With HOST/SESSION only for that one, for a session that died on a host that lives:
then verify that nothing it ran is left. Refuses as long as a session's key stands: that host is alive.

Exits with 0 when all proofs stand, also if there was nothing left to prove; 2 if the cluster knows no such host, 104 if
it is alive, 101 or 102 if etcd is away or did not say whether it was done (then do it again), 106 if it denies access.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from etcdlock.cli.common import Common, run_async
from etcdlock.cli.exits import Exit
from etcdlock.cli.via import ViaOption, agent_for
from etcdlock.meeting import Purpose

if TYPE_CHECKING:
    from etcdlock.config import Settings
    from etcdlock.documents import Document

USAGE = "[OPTIONS] HOST[/SESSION] --confirmed-by NAME --reason TEXT"


def command(
    common: Common,
    *,
    target: Annotated[str, typer.Argument(metavar="HOST[/SESSION]", hidden=True)],
    confirmed_by: Annotated[
        str | None, typer.Option(metavar="NAME", help="who has verified that the host is off [required]")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="how that is known, for the record [required]")
    ] = None,
    via: ViaOption = None,
) -> int:
    """Look, refuse or write, and say what was done."""
    from etcdlock.agent.breaking import words

    settings = common.settings(via=via)
    by = words(confirmed_by, name="--confirmed-by", purpose="who has verified that the host is off")
    why = words(reason, name="--reason", purpose="how that is known")
    agent = agent_for(settings, Purpose.BREAK)
    if agent is not None:
        document = agent.declare_dead(target, confirmed_by=by, reason=why)
    else:
        document = run_async(_break(settings, target, by=by, reason=why))
    common.show(document, otherwise=lambda: _print(document))
    return Exit.OK


async def _break(settings: Settings, target: str, /, *, by: str, reason: str) -> Document:
    from etcdlock.agent.breaking import declare_dead
    from etcdlock.documents import broken_document
    from etcdlock.model import SessionKind
    from etcdlock.wiring import make_context, open_store

    async with open_store(settings) as store:
        context = make_context(settings, store, kind=SessionKind.RUN)
        until = context.clock.now() + settings.answer_seconds
        broken = await declare_dead(context, target, by=by, reason=reason, until=until)
    return broken_document(target, broken.obituaries, broken.freed)


def _print(broken: Document, /) -> None:
    from etcdlock.identity import escaped

    if not broken["obituaries"]:
        nothing = "nothing to do: no lock names a session of it that is not proven dead already"
        print(escaped(f"{broken['target']}: {nothing}"))
        return
    for one in broken["obituaries"]:
        dead = f"{one['host']}/{one['session']}"
        print(escaped(f"{dead}: dead, confirmed by {one['by']}: {one['reason']} ({one['proof']})"))
    for domain in broken["freed"]:
        print(escaped(f"  domain {domain['name'] or domain['uuid']} can be taken over now"))
    print("Keep the host off, or let it boot anew: a guest of it that still runs would destroy its disks.")
