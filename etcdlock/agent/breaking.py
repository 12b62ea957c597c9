"""Declares sessions dead on an operator's word: the proof of their end, with who confirmed it and how that is known.

Guaranteed: a session whose key stands is never declared dead; the transaction compares. The first proof stays, so all
of this may be repeated until etcd has said what stands.

Not guaranteed: that the host is off. Whoever confirms it has to know.
"""

from __future__ import annotations

from dataclasses import dataclass

from etcdlock.agent.context import Context
from etcdlock.errors import InvalidInput, SessionAlive
from etcdlock.inquiry import sessions_to_break
from etcdlock.model import Obituary, Proof, SessionRef
from etcdlock.records import decode_first, decode_obituary
from etcdlock.survey import LockView, take_survey
from etcdlock.transitions import write_obituary


@dataclass(frozen=True, slots=True)
class Broken:
    """The proofs as they now stand, and the locks that may be taken over for them."""

    obituaries: tuple[Obituary, ...]
    freed: tuple[LockView, ...]


async def declare_dead(context: Context, target: str, /, *, by: str, reason: str, until: float) -> Broken:
    """For `HOST` or `HOST/SESSION`. Raises `SessionAlive`, `InvalidInput`, and what says that etcd did not answer."""
    survey = take_survey(await context.store.read(context.keys.everything), keys=context.keys)
    dead = sessions_to_break(survey, target)
    wanted = [Obituary(ref, Proof.OPERATOR, by, reason, context.since()) for ref in dead]
    standing = [await prove(context, obituary, until=until) for obituary in wanted]
    return Broken(tuple(standing), tuple(lock for lock in survey.locks if lock.stored.record.owner in dead))


def words(given: str | None, /, *, name: str, purpose: str) -> str:
    """What will be read years later: something that can be printed, and not nothing. Raises `InvalidInput`."""
    if given is None or not given.strip():
        raise InvalidInput(f"break: {name} is missing: {purpose}", hint="it is kept in etcd with the proof")
    if not given.isprintable():
        raise InvalidInput(f"break: {name} has characters that cannot be printed")
    return given.strip()


async def prove(context: Context, obituary: Obituary, /, *, until: float) -> Obituary:
    """Write it; the proof that now stands, which may be an earlier one. Raises `SessionAlive`, as above otherwise."""
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
