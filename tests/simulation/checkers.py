"""What a schedule's history is held against besides the judge's rules: deadlines, hold-offs, names, what is left.

All of it goes by true time, by what guests did, and by what etcd has gone through. The timing contract's numbers are
taken from the contract; what follows from them is worked out here again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from etcdlock.ports import Put, Relation, Target, Txn
from etcdlock.testing import Applied, Entry, Sent
from etcdlock.timing import Timing
from tests.promises.judge import Moment, moments, spans, violations
from tests.promises.span import Span
from tests.promises.world import KEYS
from tests.simulation.cluster import Cluster
from tests.simulation.moments import kind_of

ROUNDING_SECONDS = 1e-4
KEPT_BACK_SECONDS = 0.5


@dataclass(frozen=True)
class Proven:
    """When etcd did what proves a session, and when that was sent; both ascending, on true time."""

    applied: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)


def proofs_of_sessions(history: Iterable[Entry]) -> dict[str, Proven]:
    """By session key: joins, resumptions and heartbeats that have committed, each of which found or made the key."""
    sent: dict[int, float] = {}
    found: dict[str, Proven] = {}
    for entry in history:
        if isinstance(entry, Sent):
            sent[entry.number] = entry.instant
        elif isinstance(entry, Applied) and entry.result is not None and entry.result.succeeded:
            key = _proves(entry.txn)
            if key:
                proven = found.setdefault(key, Proven())
                proven.applied.append(entry.instant)
                proven.sent.append(max(sent[entry.number], *proven.sent[-1:], 0.0))
    return found


def _proves(txn: Txn) -> str:
    kind = kind_of(txn)
    if kind == "join":
        return next(op.key for op in txn.success if isinstance(op, Put) and op.key.startswith(KEYS.sessions().key))
    if kind != "heartbeat":
        return ""
    compare = txn.compare[0]
    stands = (compare.target, compare.relation) == (Target.CREATE_REVISION, Relation.EQUAL) and compare.number > 0
    return compare.where.key if stands else ""


def outlived_budgets(
    what: Iterable[Span], states: Sequence[Moment], proven: Mapping[str, Proven], *, timing: Timing, slowest: float
) -> list[str]:
    """A guest that runs later than `S` + budget: `S` is when the last proof of the session was *sent* that its record
    names. That is before anybody could have proven its silence. `slowest` is the rate of the slowest clock there is.
    """
    rho = timing.clock_rate_error
    budget = (timing.hold_off_seconds * (1 - rho) / (1 + rho) - KEPT_BACK_SECONDS) / slowest + ROUNDING_SECONDS
    instants = [state.instant for state in states]
    found = []
    for span in what:
        first = max(bisect_right(instants, span.began) - 1, 0)
        for place in range(first, len(states)):
            begins = max(span.began, instants[place])
            ends = min(span.ended, instants[place + 1] if place + 1 < len(states) else instants[-1])
            if begins >= span.ended:
                break
            session = _session_of(states[place].values.get(f"{KEYS.domains.key}{span.uuid}"), span)
            late = _latest_gap(proven.get(session, Proven()), begins, ends) - budget if session and begins < ends else 0
            if late > 0:
                found.append(f"{span} runs {late:.3f} s past the budget of {session}, near {begins:.3f}")
                break
    return found


def _session_of(record: Any, span: Span) -> str:
    if record is None or (record["host"], record["pid"]) != (span.host, span.pid):
        return ""
    return f"{KEYS.sessions(span.host).key}{record['session']}"


def _latest_gap(proven: Proven, begins: float, ends: float) -> float:
    """The longest that anything has run after the last proof there was by then."""
    place = bisect_right(proven.applied, begins) - 1
    longest = 0.0
    while True:
        last = proven.sent[place] if place >= 0 else float("-inf")
        upto = min(ends, proven.applied[place + 1]) if place + 1 < len(proven.applied) else ends
        longest = max(longest, upto - last)
        place += 1
        if upto >= ends:
            return longest


def hasty_proofs(states: Sequence[Moment], *, timing: Timing, fastest: float) -> list[str]:
    """An obituary by silence sooner after the session's key went than the fastest clock lets the hold-off pass."""
    least = timing.hold_off_seconds / fastest - ROUNDING_SECONDS
    gone: dict[str, float] = {}
    found, before = [], Moment(0, 0.0, {})
    for state in states:
        living, earlier = state.under(KEYS.sessions().key), before.under(KEYS.sessions().key)
        gone |= dict.fromkeys(earlier.keys() - living.keys(), state.instant)
        proofs = state.under(KEYS.obituaries.key)
        for key in sorted(proofs.keys() - before.under(KEYS.obituaries.key).keys()):
            session = KEYS.sessions().key + key.removeprefix(KEYS.obituaries.key)
            if session in living:
                found.append(f"revision {state.revision}: {session} is proven dead, and its key stands")
            elif proofs[key]["proof"] == "silence" and state.instant - gone.get(session, state.instant) < least:
                silent = state.instant - gone.get(session, state.instant)
                found.append(f"revision {state.revision}: {session} is proven dead after {silent:.3f} s of silence")
        before = state
    return found


def shared_names(states: Sequence[Moment]) -> list[str]:
    """Two boots under one host id that have session keys at one time."""
    found = []
    for state in states:
        boots: dict[str, set[str]] = {}
        for key, value in state.under(KEYS.sessions().key).items():
            boots.setdefault(key.rpartition("/")[0], set()).add(value["boot"])
        found += [f"revision {state.revision}: {host} is {sorted(at)}" for host, at in boots.items() if len(at) > 1]
    return found[:1]


def taken_by_the_gone(states: Sequence[Moment]) -> list[str]:
    """A domain that goes to a session which has no key at that moment; what is handed back, parked, may."""
    found, before = [], Moment(0, 0.0, {})
    for state in states:
        for key, record in state.under(KEYS.domains.key).items():
            earlier = before.values.get(key)
            is_taken = record["mod"] == state.revision and record["state"] == "held"
            same = earlier is not None and earlier["session"] == record["session"]
            session = f"{KEYS.sessions(record['host']).key}{record['session']}"
            if is_taken and not same and session not in state.values:
                found.append(f"revision {state.revision}: {key} is taken by {session}, which is gone")
        before = state
    return found


def check(cluster: Cluster) -> list[str]:
    """Everything that is wrong with a schedule's history."""
    what, states, rates = spans(cluster), moments(cluster), [host.rate for host in cluster.hosts]
    return [
        *violations(what, states),
        *outlived_budgets(
            what, states, proofs_of_sessions(cluster.etcd.history), timing=cluster.timing, slowest=min(rates)
        ),
        *hasty_proofs(states, timing=cluster.timing, fastest=max(rates)),
        *shared_names(states),
        *taken_by_the_gone(states),
        *cluster.crashes,
    ]
