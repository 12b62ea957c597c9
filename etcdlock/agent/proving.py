"""Finds out about the owners of what is in the way, and records the proof of a session's end.

What is read here only proposes: obituary and takeover compare all of it again.
"""

from __future__ import annotations

import logging

from etcdlock.agent.context import Context
from etcdlock.errors import HeldElsewhere
from etcdlock.explain import describe_blockers
from etcdlock.journal import note
from etcdlock.model import Obituary, Proof, SessionRef
from etcdlock.ports import KeyValue, Snapshot, Txn
from etcdlock.records import decode_domain, decode_first, decode_obituary
from etcdlock.session import ended_by_reboot
from etcdlock.survey import take_survey
from etcdlock.takeover import Evidence, Obstacles, blockers, look_at_domains, look_at_sessions
from etcdlock.transitions import all_domains, write_obituary

READS_AT_ONCE = 64
"""Half of what etcd takes in one transaction unless it is told otherwise."""


async def gather(context: Context, obstacles: Obstacles, /) -> Evidence:
    """Whose domains are in the way, whether their sessions have keys or obituaries."""
    found = await _read(context, look_at_domains(context.keys, obstacles.owners))
    stored = [decode_domain(group[0]) for group in found if group]
    ordered = sorted({item.record.owner for item in stored})
    looked = await _read(context, look_at_sessions(context.keys, frozenset(ordered)))
    obituaries = {ref: decode_first(looked[2 * i + 1], decode_obituary) for i, ref in enumerate(ordered)}
    return Evidence(
        domains={item.record.domain.uuid: item for item in stored},
        living=frozenset(ref for i, ref in enumerate(ordered) if looked[2 * i]),
        obituaries={ref: obituary for ref, obituary in obituaries.items() if obituary is not None},
    )


async def owners_of_locks(context: Context, /) -> frozenset[SessionRef]:
    """All sessions that locks name, whether they live or not; records that cannot be read name none."""
    looked = await context.look(all_domains(context.keys))
    survey = take_survey(Snapshot(looked.revision, looked.replies[1]), keys=context.keys)
    return frozenset(lock.stored.record.owner for lock in survey.locks)


async def proofs_against(context: Context, obstacles: Obstacles, /) -> Evidence:
    """What allows to take all that is in the way. Raises `HeldElsewhere` with everything that may not be taken."""
    evidence = await gather(context, obstacles)
    if await declare_reboots(context, evidence):
        evidence = await gather(context, obstacles)
    in_the_way = blockers(obstacles, evidence)
    if in_the_way:
        text = describe_blockers(in_the_way, timing=context.timing, needs=context.contract.takeover_needs)
        raise HeldElsewhere(text, blockers=in_the_way, revision=obstacles.revision)
    return evidence


async def _read(context: Context, look: Txn, /) -> list[tuple[KeyValue, ...]]:
    """What every Get finds, in as many transactions as it takes: a resource may have any number of shared holders."""
    found: list[tuple[KeyValue, ...]] = []
    for start in range(0, len(look.success), READS_AT_ONCE):
        part = Txn((), look.success[start : start + READS_AT_ONCE])
        found += (await context.look(part)).replies
    return found


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
