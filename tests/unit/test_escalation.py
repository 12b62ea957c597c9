"""The ladder, as a table; and what it never does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcdlock.escalation import Action, Deadline, Sight, Stage, Step, after, may_be_armed, step

DEADLINE = Deadline(stop_at_seconds=100.0, act_until_seconds=102.5, stuck_at_seconds=105.0)
BEFORE, ACTING, LATE, HOPELESS = 99.999, 100.0, 102.5, 105.0

GONE = Sight(alive=False)
RUNS, STANDS, COMMANDING = Sight(), Sight(stands=True), Sight(commanding=True)
KILL, FREEZE, COMMAND = Action
RUNNING, FREEZING, FROZEN, COMMANDED, STOPPING = Stage

TABLE = [
    # action, stage, seen; then what to do before the deadline, from it on, when the action's time is up, and at last
    (KILL, RUNNING, RUNS, Step.NONE, Step.KILL, Step.KILL, Step.REPORT_STUCK),
    (KILL, RUNNING, STANDS, Step.NONE, Step.KILL, Step.KILL, Step.REPORT_STUCK),
    (KILL, STOPPING, RUNS, Step.KILL, Step.KILL, Step.KILL, Step.REPORT_STUCK),
    (FREEZE, RUNNING, RUNS, Step.NONE, Step.FREEZE, Step.KILL, Step.REPORT_STUCK),
    (FREEZE, RUNNING, STANDS, Step.NONE, Step.HOLD, Step.HOLD, Step.HOLD),
    (FREEZE, FREEZING, RUNS, Step.FREEZE, Step.FREEZE, Step.KILL, Step.REPORT_STUCK),
    (FREEZE, FREEZING, STANDS, Step.HOLD, Step.HOLD, Step.HOLD, Step.HOLD),
    (FREEZE, FROZEN, STANDS, Step.HOLD, Step.HOLD, Step.HOLD, Step.HOLD),
    (FREEZE, FROZEN, RUNS, Step.KILL, Step.KILL, Step.KILL, Step.REPORT_STUCK),
    (FREEZE, STOPPING, STANDS, Step.KILL, Step.KILL, Step.KILL, Step.REPORT_STUCK),
    (COMMAND, RUNNING, RUNS, Step.NONE, Step.COMMAND, Step.KILL, Step.REPORT_STUCK),
    (COMMAND, COMMANDED, COMMANDING, Step.NONE, Step.NONE, Step.KILL, Step.REPORT_STUCK),
    (COMMAND, COMMANDED, RUNS, Step.KILL, Step.KILL, Step.KILL, Step.REPORT_STUCK),
    (COMMAND, STOPPING, COMMANDING, Step.KILL, Step.KILL, Step.KILL, Step.REPORT_STUCK),
]

ACTIONS, STAGES = st.sampled_from(Action), st.sampled_from(Stage)
SIGHTS = st.builds(Sight, alive=st.just(True), stands=st.booleans(), commanding=st.booleans())
INSTANTS = st.floats(min_value=0, max_value=1e6)
SPANS = st.floats(min_value=0, max_value=100)


@pytest.mark.parametrize(("action", "stage", "sight", "before", "acting", "late", "hopeless"), TABLE)
def test_each_rung_begins_at_its_instant(
    action: Action, stage: Stage, sight: Sight, before: Step, acting: Step, late: Step, hopeless: Step
) -> None:
    def at(now: float) -> Step:
        return step(now, deadline=DEADLINE, action=action, stage=stage, sight=sight)

    assert (at(BEFORE), at(ACTING), at(LATE), at(HOPELESS)) == (before, acting, late, hopeless)


@given(now=INSTANTS, action=ACTIONS, stage=STAGES)
def test_about_a_guest_of_which_nothing_lives_nothing_is_done(now: float, action: Action, stage: Stage) -> None:
    assert step(now, deadline=DEADLINE, action=action, stage=stage, sight=GONE) is Step.NONE


@given(now=INSTANTS, stop_at=INSTANTS, act=SPANS, kill=SPANS, action=ACTIONS, stage=STAGES, sight=SIGHTS)
def test_nothing_that_runs_past_its_deadline_is_left_alone_but_while_its_command_has_its_time(
    now: float, stop_at: float, act: float, kill: float, action: Action, stage: Stage, sight: Sight
) -> None:
    deadline = Deadline(stop_at, stop_at + act, stop_at + act + kill)
    taken = step(now, deadline=deadline, action=action, stage=stage, sight=sight)
    is_late = now >= stop_at or stage is not Stage.RUNNING
    has_its_command = stage is Stage.COMMANDED and sight.commanding and now < deadline.act_until_seconds
    assert (taken is Step.NONE) == (not is_late or has_its_command)
    if now >= deadline.act_until_seconds and is_late:
        assert taken in (Step.KILL, Step.REPORT_STUCK) or (taken is Step.HOLD and sight.stands)


@given(action=ACTIONS, sights=st.lists(st.tuples(SPANS, SIGHTS), max_size=20))
def test_a_guest_never_comes_back_to_running_by_itself_and_what_was_struck_is_struck_for_ever(
    action: Action, sights: list[tuple[float, Sight]]
) -> None:
    now, stage = DEADLINE.stop_at_seconds, Stage.RUNNING
    for passed, sight in sights:
        now += passed
        before, taken = stage, step(now, deadline=DEADLINE, action=action, stage=stage, sight=sight)
        stage = after(taken, stage=stage)
        assert stage is not Stage.RUNNING
        assert before is not Stage.STOPPING or stage is Stage.STOPPING
        assert stage is not Stage.FROZEN or sight.stands, "frozen without having been seen to stand"
        assert may_be_armed(stage) == (stage in (Stage.FREEZING, Stage.FROZEN))
