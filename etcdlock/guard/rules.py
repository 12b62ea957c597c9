"""What the guard does about each guest it was told of, and about the watchdog: pure, every change is a new record.

A guest's deadline belongs to its session: the last proof's instant + `stop_after_seconds`. A guest is taken in only
under a session that is proven at that moment. A deadline only ever moves on; once something was done about a guest, its
deadline stays the one that had passed. A proof from the future counts from now. Of the two clocks of a reading, the one
that moved more since the proof arrived counts.

A frozen guest runs on (`go_on`) only after it was armed anew, under a session that is proven then. `hold` takes in one
that an earlier guard has frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from etcdlock.escalation import KILLED, Action, Charge, Deadline, Sight, Stage, Step, after, may_be_armed, step
from etcdlock.guard.instant import Reading
from etcdlock.guard.table import Name

STRIKE_EVERY_SECONDS = 0.1
LOOK_AT_FROZEN_EVERY_SECONDS = 0.5
WATCHDOG_SPARE_SECONDS = 0.5
"""What the watchdog's own clock and timer may add to its timeout."""

_NEVER = Reading(float("-inf"), float("-inf"))


class Refusal(Enum):
    """Why a guest is not taken in."""

    NOT_PROVEN = "session was never proven"
    EXPIRED = "session is not proven any more"
    STOPPING = "guest is being stopped"
    NOT_ARMED = "guest is not armed"
    NO_HANDLE = "no descriptor could be had for the guest"


@dataclass(frozen=True, slots=True)
class Limits:
    """In seconds after a session's last proof: `stop_after`, when its guests are stopped, and `budget`, by when
    everything of it is dead; `kill` is how long that may take, the lag of the guard included, `act` how long anything
    gentler; how often a watchdog is fed, and the timeout by which the host goes. Until they are told, no session counts
    as proven.
    """

    stop_after_seconds: float = 0.0
    act_seconds: float = 0.0
    kill_seconds: float = 0.0
    budget_seconds: float = 0.0
    feed_every_seconds: float = 0.25
    watchdog_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Armed:
    """A guest and what was done about it. `due` is the deadline that had passed when that began."""

    session: str
    charge: Charge = KILLED
    stage: Stage = Stage.RUNNING
    due: Reading | None = None
    stuck: bool = False

    @property
    def stopping(self) -> bool:
        """Whether its end has begun."""
        return self.stage is Stage.STOPPING


@dataclass(frozen=True, slots=True)
class State:
    """All that the guard knows. `proven` holds for each session its deadline on both clocks."""

    limits: Limits
    proven: dict[str, Reading] = field(default_factory=dict)
    guests: dict[Name, Armed] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tick:
    """What is due now: a step for each guest about which something is, and what is known once they are taken."""

    before: State
    state: State
    steps: dict[Name, Step]

    @property
    def strike(self) -> tuple[Name, ...]:
        """To be killed, now and again until they are gone."""
        return self._due(Step.KILL) + self._due(Step.REPORT_STUCK)

    @property
    def freeze(self) -> tuple[Name, ...]:
        """To be told to stand, now and again until they do."""
        return self._due(Step.FREEZE)

    @property
    def command(self) -> tuple[Name, ...]:
        """Whose commands are to be started."""
        return self._due(Step.COMMAND)

    @property
    def stuck(self) -> tuple[Name, ...]:
        """Those that are found not to have died in time, once each."""
        return tuple(name for name in self._due(Step.REPORT_STUCK) if not self.before.guests[name].stuck)

    def entered(self, stage: Stage) -> tuple[Name, ...]:
        """Those that come to this stage now."""
        return tuple(name for name in self.steps if self._is_at(stage, name) and not self._was_at(stage, name))

    def _is_at(self, stage: Stage, name: Name) -> bool:
        return self.state.guests[name].stage is stage

    def _was_at(self, stage: Stage, name: Name) -> bool:
        return self.before.guests[name].stage is stage

    def _due(self, kind: Step) -> tuple[Name, ...]:
        return tuple(name for name, taken in self.steps.items() if taken is kind)


def prove(state: State, session: str, *, at_seconds: float, now: Reading) -> State:
    """The session was proven by a heartbeat sent at this instant."""
    age_seconds = max(now.steady_seconds - at_seconds, 0.0)
    left_seconds = state.limits.stop_after_seconds - age_seconds
    due = Reading(now.steady_seconds + left_seconds, now.boot_seconds + left_seconds)
    before = state.proven.get(session)
    if before is not None and before.steady_seconds >= due.steady_seconds:
        return state
    return replace(state, proven={**_still_needed(state, now=now), session: due})


def arm(state: State, guest: Name, *, session: str, now: Reading, charge: Charge = KILLED) -> State | Refusal:
    """Take a guest in, or move it to another session that it has joined since; one that was frozen may `go_on`."""
    due = state.proven.get(session)
    armed = state.guests.get(guest)
    if armed is not None and not may_be_armed(armed.stage):
        return Refusal.STOPPING
    if due is None:
        return Refusal.NOT_PROVEN
    if _late_seconds(due, now=now) >= 0:
        return Refusal.EXPIRED
    return replace(state, guests={**state.guests, guest: Armed(session, charge)})


def hold(state: State, guest: Name, *, session: str, charge: Charge, now: Reading) -> State | Refusal:
    """Take in a guest that must not run: it stands already, or has as long for it as is left of its deadline."""
    if guest in state.guests:
        return Refusal.STOPPING
    due = state.proven.get(session, _NEVER)
    if _late_seconds(due, now=now) < 0:     # proven meanwhile, but not armed anew: what does not stand had its time
        due = _NEVER
    return replace(state, guests={**state.guests, guest: Armed(session, charge, Stage.FREEZING, due)})


def abandon(state: State, guests: Iterable[Name]) -> State:
    """Whoever started these is gone, and nobody else can ever let them run again: they are killed, not frozen."""
    changed = {name: _killed(state.guests[name], state) for name in guests if name in state.guests}
    return replace(state, guests={**state.guests, **changed})


def _killed(armed: Armed, state: State) -> Armed:
    acted = armed.stage is not Stage.RUNNING
    return replace(
        armed,
        charge=KILLED if armed.charge.action is Action.FREEZE else armed.charge,
        stage=Stage.STOPPING if armed.stage in (Stage.FREEZING, Stage.FROZEN) else armed.stage,
        due=_due(state, armed) if acted else None,
    )


def overdue_to_freeze(state: State, *, now: Reading) -> tuple[Name, ...]:
    """Guests that should stand by now, and about which nothing was done here: this guard was held up."""
    return tuple(
        name
        for name, armed in state.guests.items()
        if (armed.stage, armed.charge.action) == (Stage.RUNNING, Action.FREEZE)
        and _late_seconds(_due(state, armed), now=now) >= state.limits.act_seconds
    )


def may_go_on(state: State, guest: Name, *, now: Reading) -> Refusal | None:
    """Why a guest may not be let run now, or None."""
    armed = state.guests.get(guest)
    if armed is None or armed.stage is not Stage.RUNNING:
        return Refusal.NOT_ARMED
    return Refusal.EXPIRED if _late_seconds(state.proven[armed.session], now=now) >= 0 else None


def disarm(state: State, guest: Name) -> State:
    """The guest is gone; one never heard of, or known to be gone, is a success."""
    return replace(state, guests={name: armed for name, armed in state.guests.items() if name != guest})


def tick(state: State, *, now: Reading, sights: Mapping[Name, Sight] | None = None) -> Tick:
    """What is due at this reading, for all guests at once. A guest counts as alive for as long as it is armed: the loop
    drops it when nothing of it is left.
    """
    guests = dict(state.guests)
    steps: dict[Name, Step] = {}
    for name, armed in state.guests.items():
        taken = _step(state, armed, now=now, sight=(sights or {}).get(name, Sight()))
        if taken is not Step.NONE:
            steps[name] = taken
            guests[name] = _moved(armed, taken, due=_due(state, armed))
    return Tick(state, replace(state, guests=guests) if steps else state, steps)


def quiet_until(state: State) -> Reading:
    """Nothing is due before either clock gets there, whatever is seen of the guests; past where that cannot be said."""
    if any(armed.stage is not Stage.RUNNING for armed in state.guests.values()):
        return _NEVER
    dues = [state.proven[session] for session in {armed.session for armed in state.guests.values()}]
    return Reading(
        min((due.steady_seconds for due in dues), default=float("inf")),
        min((due.boot_seconds for due in dues), default=float("inf")),
    )


class Quiet:
    """Remembers that for as long as the state holds: a thousand guests that may run cost no more than one."""

    def __init__(self) -> None:
        self._of: State | None = None
        self._until = _NEVER

    def seconds(self, state: State, *, now: Reading) -> float:
        """For how long nothing will be due; 0 if each guest must be looked at to know."""
        if self._of is not state:
            self._of, self._until = state, quiet_until(state)
        return max(-_late_seconds(self._until, now=now), 0.0)


def wait_seconds(state: State, *, now: Reading) -> float | None:
    """How long nothing will be due; None if nothing is armed."""
    return min((_wait(state, armed, now=now) for armed in state.guests.values()), default=None)


def may_feed(state: State, *, watchdog_seconds: float, now: Reading) -> bool:
    """Whether the host may be kept from being reset for one more timeout: every session with guests is proven long
    enough. What was seen to stand needs no reset; nor does a host without guests.

    Once: the watchdog was fed before, so a guard that stalls after this answer feeds within one timeout or never; then
    it resets the host within another, and by then everything must be dead.
    """
    needed = 2 * watchdog_seconds + WATCHDOG_SPARE_SECONDS
    beyond = state.limits.budget_seconds - state.limits.stop_after_seconds
    sessions = {armed.session for armed in state.guests.values() if armed.stage is not Stage.FROZEN}
    return all(beyond - _late_seconds(state.proven.get(session, _NEVER), now=now) >= needed for session in sessions)


def may_open(state: State, *, now: Reading) -> bool:
    """Whether the watchdog may be opened, which feeds it."""
    return may_feed(state, watchdog_seconds=state.limits.watchdog_seconds, now=now)


def _wait(state: State, armed: Armed, *, now: Reading) -> float:
    if armed.stage is Stage.RUNNING:
        return max(-_late_seconds(_due(state, armed), now=now), 0.0)
    return LOOK_AT_FROZEN_EVERY_SECONDS if armed.stage is Stage.FROZEN else STRIKE_EVERY_SECONDS


def _moved(armed: Armed, taken: Step, *, due: Reading) -> Armed:
    stuck = armed.stuck or taken is Step.REPORT_STUCK
    return replace(armed, stage=after(taken, stage=armed.stage), due=due, stuck=stuck)


def _still_needed(state: State, *, now: Reading) -> dict[str, Reading]:
    """Without the sessions that have run out and have no guest: a guard may outlive many."""
    used = {armed.session for armed in state.guests.values()}
    return {
        session: due for session, due in state.proven.items() if session in used or _late_seconds(due, now=now) < 0
    }


def _due(state: State, armed: Armed) -> Reading:
    return armed.due or state.proven[armed.session]


def _step(state: State, armed: Armed, *, now: Reading, sight: Sight) -> Step:
    late_seconds = _late_seconds(_due(state, armed), now=now)
    deadline = Deadline(0.0, state.limits.act_seconds, state.limits.kill_seconds)
    return step(late_seconds, deadline=deadline, action=armed.charge.action, stage=armed.stage, sight=sight)


def _late_seconds(due: Reading, *, now: Reading) -> float:
    """Time past the deadline, by whichever clock says more; below 0 before it."""
    return max(now.steady_seconds - due.steady_seconds, now.boot_seconds - due.boot_seconds)
