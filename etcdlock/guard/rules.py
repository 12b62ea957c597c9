"""What the guard does about each guest it was told of: pure, every change is a new record.

A guest's deadline belongs to its session: the last proof's instant + the budget. A guest is taken in only under a
session that is proven at that moment. A deadline only ever moves on; once a guest is being stopped nothing saves it. A
proof from the future counts from now. Of the two clocks of a reading, the one that moved more since the proof arrived
counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from etcdlock.escalation import Deadline, Step, step
from etcdlock.guard.instant import Reading
from etcdlock.guard.table import Name

STRIKE_EVERY_SECONDS = 0.1


class Refusal(Enum):
    """Why a guest is not taken in."""

    NOT_PROVEN = "session was never proven"
    EXPIRED = "session is not proven any more"
    STOPPING = "guest is being stopped"
    NO_HANDLE = "no descriptor came with the guest"


@dataclass(frozen=True, slots=True)
class Armed:
    """A guest and whether its end has begun, and was reported not to come."""

    session: str
    stopping: bool = False
    stuck: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """All that the guard knows. `proven` holds for each session its deadline on both clocks."""

    budget_seconds: float
    kill_seconds: float
    proven: dict[str, Reading] = field(default_factory=dict)
    guests: dict[Name, Armed] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tick:
    """What is due now: `strike` these, and say that `stuck` have not died in time."""

    state: State
    strike: tuple[Name, ...]
    stuck: tuple[Name, ...]


def prove(state: State, session: str, *, at_seconds: float, now: Reading) -> State:
    """The session was proven by a heartbeat sent at this instant."""
    age_seconds = max(now.steady_seconds - at_seconds, 0.0)
    left_seconds = state.budget_seconds - age_seconds
    due = Reading(now.steady_seconds + left_seconds, now.boot_seconds + left_seconds)
    before = state.proven.get(session)
    if before is not None and before.steady_seconds >= due.steady_seconds:
        return state
    return replace(state, proven={**_still_needed(state, now=now), session: due})


def arm(state: State, guest: Name, *, session: str, now: Reading) -> State | Refusal:
    """Take a guest in, or move it to another session that it has joined since."""
    due = state.proven.get(session)
    armed = state.guests.get(guest)
    if armed is not None and armed.stopping:
        return Refusal.STOPPING
    if due is None:
        return Refusal.NOT_PROVEN
    if _late_seconds(due, now=now) >= 0:
        return Refusal.EXPIRED
    return replace(state, guests={**state.guests, guest: Armed(session)})


def disarm(state: State, guest: Name) -> State:
    """The guest is gone; one never heard of, or known to be gone, is a success."""
    return replace(state, guests={name: armed for name, armed in state.guests.items() if name != guest})


def tick(state: State, *, now: Reading) -> Tick:
    """What is due at this reading, for all guests at once."""
    guests, strike, stuck = dict(state.guests), [], []
    for name, armed in state.guests.items():
        rung = _rung(state, armed, now=now)
        if rung is Step.NONE:
            continue
        strike.append(name)
        if rung is Step.REPORT_STUCK and not armed.stuck:
            stuck.append(name)
        guests[name] = replace(armed, stopping=True, stuck=armed.stuck or rung is Step.REPORT_STUCK)
    return Tick(replace(state, guests=guests), tuple(strike), tuple(stuck))


def wait_seconds(state: State, *, now: Reading) -> float | None:
    """How long nothing will be due; None if nothing is armed."""
    waits = [
        STRIKE_EVERY_SECONDS if armed.stopping else max(-_late_seconds(state.proven[armed.session], now=now), 0.0)
        for armed in state.guests.values()
    ]
    return min(waits, default=None)


def _still_needed(state: State, *, now: Reading) -> dict[str, Reading]:
    """Without the sessions that have run out and have no guest: a guard may outlive many."""
    used = {armed.session for armed in state.guests.values()}
    return {
        session: due for session, due in state.proven.items() if session in used or _late_seconds(due, now=now) < 0
    }


def _rung(state: State, armed: Armed, *, now: Reading) -> Step:
    """A guest counts as alive for as long as it is armed: the loop drops it when nothing of it is left."""
    late_seconds = _late_seconds(state.proven[armed.session], now=now)
    rung = step(late_seconds, deadline=Deadline(0.0, state.kill_seconds), alive=True)
    return Step.KILL if rung is Step.NONE and armed.stopping else rung


def _late_seconds(due: Reading, *, now: Reading) -> float:
    """Time past the deadline, by whichever clock says more; below 0 before it."""
    return max(now.steady_seconds - due.steady_seconds, now.boot_seconds - due.boot_seconds)
