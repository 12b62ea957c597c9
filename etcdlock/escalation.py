"""The ladder: what is to be done about one guest at one instant.

Pure, and standard library only: the guard process runs this very rule without the rest of the package, so that the
guard and the program that started the guest can never disagree about it. It never answers NONE for a guest that runs
past `stop_at`, however late it is asked, but while a command that was started for it has its time.

    kill      SIGKILL at `stop_at`.
    freeze    SIGSTOP at `stop_at`; stands is only what was *seen* to stand, every thread of it. What does not stand by
              `act_until` is killed, and so is what has run since it stood, whoever let it: it was not armed anew.
    command   a program is started at `stop_at`; the guest is killed when that ends, at `act_until` at the latest.

A frozen guest may stay so without limit: it writes nothing, so whoever takes its locks has nothing to fear. It may run
again only once it is armed anew, which is for the program to do that knows what became of its lock; then its stage is
RUNNING again. Nothing saves a guest for which a command was started or that was struck. Which clock the instants are
from is the caller's business, as long as it is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

ACT_SHARE = 0.5
"""Of the time to kill, the part that a freeze or a command may take before SIGKILL."""


class Action(StrEnum):
    """What is done first with a guest whose session cannot be proven any more."""

    KILL = "kill"
    FREEZE = "freeze"
    COMMAND = "command"


class Stage(StrEnum):
    """What was done about a guest so far. FREEZING: told to stand, not seen to stand yet."""

    RUNNING = "running"
    FREEZING = "freezing"
    FROZEN = "frozen"
    COMMANDED = "commanded"
    STOPPING = "stopping"


class Step(StrEnum):
    """What to do now."""

    NONE = "none"
    FREEZE = "freeze"                # SIGSTOP, and look whether it stands
    HOLD = "hold"                    # it stands: look again soon
    COMMAND = "command"              # start its command
    KILL = "kill"
    REPORT_STUCK = "report stuck"    # go on killing, and say that it has not helped in time


@dataclass(frozen=True, slots=True)
class Deadline:
    """`stop_at_seconds`: nothing may run from here on; `act_until_seconds`: the gentler action has had its time;
    `stuck_at_seconds`: it should have been dead by now.
    """

    stop_at_seconds: float
    act_until_seconds: float
    stuck_at_seconds: float


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of a guest: whether anything of it lives, all that lives stands, and its command still runs.

    Whoever has not looked has not seen it stand.
    """

    alive: bool = True
    stands: bool = False
    commanding: bool = False


@dataclass(frozen=True, slots=True)
class Charge:
    """What a guard is told about a guest besides its process. `environment` is for its command."""

    action: Action = Action.KILL
    environment: tuple[tuple[str, str], ...] = ()


KILLED = Charge()


def step(now_seconds: float, *, deadline: Deadline, action: Action, stage: Stage, sight: Sight) -> Step:
    """What to do about a guest."""
    if not sight.alive:
        return Step.NONE
    if stage is Stage.RUNNING and now_seconds < deadline.stop_at_seconds:
        return Step.NONE
    gentle = _gentle(action, stage, sight, has_time=now_seconds < deadline.act_until_seconds)
    if gentle is not None:
        return gentle
    return Step.KILL if now_seconds < deadline.stuck_at_seconds else Step.REPORT_STUCK


def _gentle(action: Action, stage: Stage, sight: Sight, *, has_time: bool) -> Step | None:
    """Anything but SIGKILL, if that may be."""
    if sight.stands and (stage in (Stage.FREEZING, Stage.FROZEN) or (stage, action) == (Stage.RUNNING, Action.FREEZE)):
        return Step.HOLD        # also where another has frozen it, while whoever asks was held up
    if not has_time:
        return None
    if stage is Stage.FREEZING or (stage is Stage.RUNNING and action is Action.FREEZE):
        return Step.FREEZE
    if stage is Stage.RUNNING and action is Action.COMMAND:
        return Step.COMMAND
    return Step.NONE if stage is Stage.COMMANDED and sight.commanding else None


_NEXT = {
    Step.FREEZE: Stage.FREEZING,
    Step.HOLD: Stage.FROZEN,
    Step.COMMAND: Stage.COMMANDED,
    Step.KILL: Stage.STOPPING,
    Step.REPORT_STUCK: Stage.STOPPING,
}


def after(taken: Step, /, *, stage: Stage) -> Stage:
    """The stage once a step was taken."""
    return _NEXT.get(taken, stage)


def may_be_armed(stage: Stage) -> bool:
    """Whether a guest may still be let run on, for whoever has the proof."""
    return stage in (Stage.RUNNING, Stage.FREEZING, Stage.FROZEN)
