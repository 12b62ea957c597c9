"""The ladder, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcdlock.escalation import Deadline, Step, step

DEADLINE = Deadline(stop_at_seconds=100.0, stuck_at_seconds=105.0)
INSTANTS = st.floats(min_value=0, max_value=1e6)


@pytest.mark.parametrize(
    ("now_seconds", "alive", "expected"),
    [
        (0.0, True, Step.NONE),
        (99.999, True, Step.NONE),
        (100.0, True, Step.KILL),
        (104.999, True, Step.KILL),
        (105.0, True, Step.REPORT_STUCK),
        (1e9, True, Step.REPORT_STUCK),
        (99.0, False, Step.NONE),
        (100.0, False, Step.NONE),
        (1e9, False, Step.NONE),
    ],
)
def test_each_rung_begins_at_its_instant(now_seconds: float, alive: bool, expected: Step) -> None:
    assert step(now_seconds, deadline=DEADLINE, alive=alive) is expected


@given(now=INSTANTS, stop_at=INSTANTS, kill=st.floats(min_value=0, max_value=100))
def test_nothing_that_lives_past_its_deadline_is_left_alone(now: float, stop_at: float, kill: float) -> None:
    rung = step(now, deadline=Deadline(stop_at, stop_at + kill), alive=True)
    assert (rung is Step.NONE) == (now < stop_at)
