"""Finds out about the owners of what is in the way, and records the proof of a session's end.

What is read here only proposes: obituary and takeover compare all of it again.
"""

from __future__ import annotations

import logging

from etcdlock.agent.context import Context
from etcdlock.journal import note
from etcdlock.model import Obituary, Proof, SessionRef
from etcdlock.records import decode_domain, decode_first, decode_obituary
from etcdlock.session import ended_by_reboot
from etcdlock.takeover import Evidence, Obstacles, look_at_domains, look_at_sessions
from etcdlock.transitions import write_obituary


async def gather(context: Context, obstacles: Obstacles, /) -> Evidence:
    """Whose domains are in the way, whether their sessions have keys or obituaries."""
    if not obstacles.owners:
        return Evidence()
    found = await context.store.txn(look_at_domains(context.keys, obstacles.owners))
    stored = [decode_domain(group[0]) for group in found.replies if group]
    ordered = sorted({item.record.owner for item in stored})
    if not ordered:
        return Evidence()
    looked = (await context.store.txn(look_at_sessions(context.keys, frozenset(ordered)))).replies
    obituaries = {ref: decode_first(looked[2 * i + 1], decode_obituary) for i, ref in enumerate(ordered)}
    return Evidence(
        domains={item.record.domain.uuid: item for item in stored},
        living=frozenset(ref for i, ref in enumerate(ordered) if looked[2 * i]),
        obituaries={ref: obituary for ref, obituary in obituaries.items() if obituary is not None},
    )


async def declare(context: Context, dead: SessionRef, /, *, proof: Proof, reason: str) -> bool:
    """Write the obituary; False if the session's key still stands or another proof was there before."""
    obituary = Obituary(dead, proof, context.host, reason, context.since())
    result = await context.store.txn(write_obituary(context.keys, obituary))
    if result.succeeded:
        note("obituary_written", level=logging.WARNING, session=dead, proof=proof)
    return result.succeeded


async def declare_reboots(context: Context, evidence: Evidence, /) -> bool:
    """Our being here proves that earlier boots of this very machine have ended; whether that was news to anybody."""
    ended = {
        stored.record.owner
        for stored in evidence.domains.values()
        if ended_by_reboot(context.machine, stored.record, host=context.host)
    }
    news = [
        await declare(context, owner, proof=Proof.REBOOT, reason=f"boot {context.machine.boot} has followed")
        for owner in sorted(ended - evidence.living - evidence.obituaries.keys())
    ]
    return any(news)
