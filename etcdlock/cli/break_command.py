"""Declare a host that is OFF dead: its locks may be taken at once.

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
from etcdlock.errors import InvalidInput, SessionAlive

if TYPE_CHECKING:
    from etcdlock.agent.context import Context
    from etcdlock.config import Settings
    from etcdlock.model import Obituary, SessionRef
    from etcdlock.survey import LockView

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
) -> int:
    """Look, refuse or write, and say what was done."""
    settings = common.settings()
    by = _words(confirmed_by, option="--confirmed-by", purpose="who has verified that the host is off")
    why = _words(reason, option="--reason", purpose="how that is known")
    obituaries, freed = run_async(_break(settings, target, by=by, reason=why))
    common.show(_document(target, obituaries, freed), otherwise=lambda: _print(target, obituaries, freed))
    return Exit.OK


def _words(given: str | None, /, *, option: str, purpose: str) -> str:
    """What will be read years later: something that can be printed, and not nothing."""
    if given is None or not given.strip():
        raise InvalidInput(f"break: {option} is missing: {purpose}", hint="it is kept in etcd with the proof")
    if not given.isprintable():
        raise InvalidInput(f"break: {option} has characters that cannot be printed")
    return given.strip()


async def _break(
    settings: Settings, target: str, /, *, by: str, reason: str
) -> tuple[list[Obituary], tuple[LockView, ...]]:
    """The proofs as they now stand, and the locks that may be taken over for them."""
    from etcdlock.cli.looking import look_with
    from etcdlock.cli.wiring import make_context, open_store
    from etcdlock.inquiry import sessions_to_break
    from etcdlock.model import Obituary, Proof, SessionKind

    async with open_store(settings) as store:
        context = make_context(settings, store, kind=SessionKind.RUN)
        survey = await look_with(store, settings)
        dead = sessions_to_break(survey, target)
        until = context.clock.now() + settings.answer_seconds
        wanted = [Obituary(ref, Proof.OPERATOR, by, reason, context.since()) for ref in dead]
        standing = [await _prove(context, obituary, until=until) for obituary in wanted]
    return standing, tuple(lock for lock in survey.locks if lock.stored.record.owner in dead)


async def _prove(context: Context, obituary: Obituary, /, *, until: float) -> Obituary:
    """Write the proof; the first one stays, so that this may be repeated until etcd has said what stands."""
    from etcdlock.records import decode_first, decode_obituary
    from etcdlock.transitions import write_obituary

    async for attempt in context.patiently(until=until):
        with attempt:
            result = await context.store.txn(write_obituary(context.keys, obituary))
    if result.succeeded:
        return obituary
    key, before = result.replies
    if key or not before:
        raise _alive(obituary.dead)
    return decode_first(before, decode_obituary) or obituary


def _alive(ref: SessionRef) -> SessionAlive:
    return SessionAlive(
        f"session {ref} has its key again: its host is alive, nothing was written for it",
        hint="`etcdlock hosts` shows what lives",
    )


def _document(target: str, obituaries: list[Obituary], freed: tuple[LockView, ...], /) -> dict[str, object]:
    from etcdlock.cli.documents import domain_document, obituary_document

    return {
        "target": target,
        "obituaries": [obituary_document(obituary) for obituary in obituaries],
        "freed": [domain_document(lock.stored.record.domain) for lock in freed],
    }


def _print(target: str, obituaries: list[Obituary], freed: tuple[LockView, ...], /) -> None:
    from etcdlock.identity import escaped

    if not obituaries:
        print(escaped(f"{target}: nothing to do: no lock names a session of it that is not proven dead already"))
        return
    for obituary in obituaries:
        print(escaped(f"{obituary.dead}: dead, confirmed by {obituary.by}: {obituary.reason} ({obituary.proof})"))
    for lock in freed:
        print(escaped(f"  domain {lock.stored.record.domain} can be taken over now"))
    print("Keep the host off, or let it boot anew: a guest of it that still runs would destroy its disks.")
