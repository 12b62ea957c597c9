"""Fences a host: has it switched off, and once that is confirmed writes the proof that its sessions have ended.

Guaranteed: nothing but a switch's own word that the host is off counts; what failed, or took too long, proves nothing.
A host whose session lives is left alone unless that is ordered in so many words. The proof is of those sessions alone
that were there before the host was switched off, and each is compared once more to have no key. One that still has its
key long after says that the wrong host was switched off: then nothing is written.

Not guaranteed: that a switch tells the truth. Two that fence at once switch off twice, which does no harm.

Who fences, why, and what came of it stays in etcd, also where it failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from etcdlock.agent.breaking import Broken, prove
from etcdlock.agent.context import Context
from etcdlock.errors import EtcdlockError, NotConfirmedOff, Refused, SessionAlive
from etcdlock.inquiry import sessions_to_fence
from etcdlock.journal import note
from etcdlock.model import Fencing, FencingState, Obituary, Proof, SessionRef, StoredFencing
from etcdlock.ports import Get, KeyRange, Power, PowerSwitch, Put, Txn
from etcdlock.records import encode_fencing
from etcdlock.session import Session
from etcdlock.survey import SessionView, Standing, Survey, take_survey
from etcdlock.transitions import own, unchanged

TRIES = 3
LONGEST_BACKOFF_SECONDS = 8.0
PAUSE_SECONDS = 0.5
LATE_AFTER_SECONDS = 5.0
"""An agent that is held up for longer between its claim and the switch looks again first."""
LONGEST_DETAIL = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """To fence a host. `session` is that of the agent which does it by itself: it must be proven for that.

    `seen` is then the revision of the record by which it has judged that nobody else does it, 0 if there was none.
    """

    host: str
    by: str
    reason: str
    forced: bool = False
    session: Session | None = None
    seen: int = 0


def is_this_host(host: str, /, *, mine: str) -> bool:
    """Whether the two are one machine, going by their names: a user's agent is a host beside the system's."""
    return host == mine or host.startswith(f"{mine}.user-") or mine.startswith(f"{host}.user-")


async def fence(
    context: Context, switches: Sequence[PowerSwitch], order: Order, /, *, answer_seconds: float
) -> Broken:
    """Raises `SessionAlive`, `NotConfirmedOff`, `Refused` for this host itself, and what says that etcd is away."""
    if is_this_host(order.host, mine=context.host):
        raise Refused(f"{order.host} is this very host: it does not fence itself", hint="run this on another host")
    survey = await _survey(context)
    doomed = sessions_to_fence(survey, order.host, forced=order.forced)
    if not doomed:
        return Broken((), ())
    claim = await _claim(context, order, doomed, before=survey.fencing_of(order.host))
    note("fencing", level=logging.WARNING, host=order.host, by=order.by, reason=order.reason, forced=order.forced)
    try:
        told = await _switch_off(context, switches, order)
        proofs = await _prove_all(context, order, doomed, told, answer_seconds=answer_seconds)
    except EtcdlockError as error:
        note("fencing_failed", level=logging.ERROR, host=order.host, error=error)
        await _close(context, claim, FencingState.FAILED, str(error))
        raise
    await _close(context, claim, FencingState.OFF, told)
    note("fenced", level=logging.WARNING, host=order.host, told=told)
    ended = {view.ref for view in doomed}
    return Broken(proofs, tuple(lock for lock in survey.locks if lock.stored.record.owner in ended))


# --- the record ----------------------------------------------------------------------------------------------------


async def _claim(
    context: Context, order: Order, doomed: Sequence[SessionView], /, *, before: StoredFencing | None
) -> StoredFencing:
    """Say in etcd that it begins. An operator's order goes ahead of any other; an agent's needs its session."""
    keys, session = context.keys, order.session
    sessions = tuple(sorted(view.ref.session for view in doomed))
    again = before is not None and set(sessions) <= set(before.record.sessions)
    record = Fencing(
        host=order.host,
        sessions=sessions,
        by=order.by,
        reason=order.reason,
        attempt=before.record.attempt + 1 if before is not None and again else 1,
        state=FencingState.UNDER_WAY,
        detail="",
        when=context.since(),
        claimant=session.ref if session else None,
    )
    key = keys.fencing(order.host)
    compare = () if session is None else (own(keys, session), unchanged(key, order.seen))
    sent_at = context.clock.now()
    result = await context.store.txn(Txn(compare, (Put(key, encode_fencing(record)),), (Get(KeyRange(key)),)))
    if not result.succeeded:
        raise Refused(f"host {order.host} is being fenced by another, or session of {context.host} is gone")
    if session is not None and context.clock.now() - sent_at > LATE_AFTER_SECONDS:
        raise Refused(f"host {order.host}: too long ago that it was found silent")
    return StoredFencing(record, result.revision)


async def _close(context: Context, claim: StoredFencing, state: FencingState, detail: str, /) -> None:
    """Say what came of it, unless another has begun since."""
    record = replace(claim.record, state=state, detail=detail[:LONGEST_DETAIL], when=context.since())
    key = context.keys.fencing(record.host)
    write = Txn((unchanged(key, claim.mod_revision),), (Put(key, encode_fencing(record)),))
    try:
        await context.store.txn(write)
    except EtcdlockError as error:
        note("fencing_not_recorded", level=logging.WARNING, host=record.host, state=state, error=error)


# --- the switches --------------------------------------------------------------------------------------------------


async def _switch_off(context: Context, switches: Sequence[PowerSwitch], order: Order, /) -> str:
    """What the switches have said. Tried again with exponential backoff; what lives meanwhile is left alone."""
    async for attempt in AsyncRetrying(
        sleep=context.clock.sleep,
        stop=stop_after_attempt(TRIES),
        wait=lambda state: min(LONGEST_BACKOFF_SECONDS, 2.0 ** (state.attempt_number - 1)),
        retry=retry_if_exception_type(NotConfirmedOff),
        reraise=True,
    ):
        with attempt:
            if not order.forced:
                await _check_silent(context, order.host)
            await _all_off(switches)
    return f"{' and '.join(switch.label for switch in switches)} confirmed off"


async def _all_off(switches: Sequence[PowerSwitch], /) -> None:
    """Tell all, then ask all: a host with two power supplies is off only when both are."""
    failures = await asyncio.gather(*(_told_off(switch) for switch in switches))
    states = await asyncio.gather(*(switch.state() for switch in switches))
    for switch, failure, (power, why) in zip(switches, failures, states, strict=True):
        if power is not Power.OFF:
            said = "; ".join(part for part in (failure, why) if part)
            raise NotConfirmedOff(
                f"{switch.label}: power is {power}{': ' if said else ''}{said}",
                hint="it may be off all the same: look at it, then 'etcdlock break'",
            )


async def _told_off(switch: PowerSwitch, /) -> str:
    try:
        await switch.off()
    except NotConfirmedOff as error:  # its state tells
        return str(error)
    return ""


async def _check_silent(context: Context, host: str, /) -> None:
    """Read through Raft: no key of the host's. Raises `SessionAlive`."""
    looked = await context.look(Txn((), (Get(context.keys.sessions(host)),)))
    if looked.replies[0]:
        raise SessionAlive(f"host {host} has a session again: it is left alone")


# --- the proofs ----------------------------------------------------------------------------------------------------


async def _prove_all(
    context: Context, order: Order, doomed: Sequence[SessionView], told: str, /, *, answer_seconds: float
) -> tuple[Obituary, ...]:
    """Of those that lived first: one whose key stays proves that this was the wrong switch."""
    reason, off_since = f"{order.reason}; {told}", context.clock.now()
    proofs = []
    for view in doomed:
        obituary = Obituary(view.ref, Proof.FENCE_AGENT, order.by, reason, context.since())
        if view.standing is Standing.ALIVE:
            lasts_seconds = context.timing.key_gone_seconds(view.record.ttl_seconds if view.record else 0)
            await _until_expired(context, view.ref, told, until=off_since + lasts_seconds)
        proofs.append(await prove(context, obituary, until=context.clock.now() + answer_seconds))
    return tuple(proofs)


async def _until_expired(context: Context, ref: SessionRef, told: str, /, *, until: float) -> None:
    """Nobody renews it any more, if it was on the host that is off now."""
    while await _has_key(context, ref):
        if context.clock.now() >= until:
            raise NotConfirmedOff(
                f"{told}, but session {ref} is still renewed: does that switch belong to host {ref.host}?",
                hint="nothing was written; mend the table [fence] of the settings",
            )
        await context.clock.sleep(PAUSE_SECONDS)


async def _has_key(context: Context, ref: SessionRef, /) -> bool:
    try:
        return bool((await context.look(Txn((), (Get(KeyRange(context.keys.session(ref))),)))).replies[0])
    except EtcdlockError:
        return True  # as far as is known


async def _survey(context: Context, /) -> Survey:
    return take_survey(await context.store.read(context.keys.everything), keys=context.keys)
