"""What the guard decides about guests that are to stand: who may run on, and after what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcdlock.escalation import Action, Charge, Sight, Stage
from etcdlock.guard import rules, wire
from etcdlock.guard.instant import Reading
from etcdlock.guard.rules import Limits, Refusal, State, Tick
from etcdlock.guard.table import Name

GUEST = Name(500, 9000)
LIMITS = Limits(stop_after_seconds=10.0, act_seconds=2.5, kill_seconds=5.0, budget_seconds=15.0)
FREEZE, COMMAND = Charge(Action.FREEZE), Charge(Action.COMMAND)
STANDS, RUNS, COMMANDING = Sight(stands=True), Sight(), Sight(commanding=True)


def at(seconds: float) -> Reading:
    return Reading(seconds, seconds)


def tick(state: State, now: float, sight: Sight = RUNS) -> Tick:
    return rules.tick(state, now=at(now), sights={GUEST: sight})


def accepted(answer: State | Refusal) -> State:
    assert isinstance(answer, State)
    return answer


def armed(charge: Charge = FREEZE, *, session: str = "s", proven_at: float = 100.0) -> State:
    state = rules.prove(State(LIMITS), session, at_seconds=proven_at, now=at(proven_at))
    return accepted(rules.arm(state, GUEST, session=session, charge=charge, now=at(proven_at)))


def frozen() -> State:
    freezing = tick(armed(), 110.0)
    assert freezing.freeze == (GUEST,)
    held = tick(freezing.state, 110.1, STANDS)
    assert held.entered(Stage.FROZEN) == (GUEST,)
    return held.state


def proven(state: State, now: float, session: str = "s") -> State:
    return rules.prove(state, session, at_seconds=now, now=at(now))


def test_a_guest_that_stands_is_held_however_long_it_takes() -> None:
    state = frozen()
    for now in (111.0, 115.0, 700.0, 1e6):
        held = tick(state, now, STANDS)
        assert (held.strike, held.freeze, held.entered(Stage.FROZEN)) == ((), (), ())
        state = held.state


def test_a_guest_that_does_not_stand_in_time_is_killed() -> None:
    state = tick(armed(), 110.0).state
    again = tick(state, 112.499)
    assert again.freeze == (GUEST,)
    assert tick(again.state, 112.5).strike == (GUEST,)


def test_what_was_let_run_by_somebody_else_is_killed() -> None:
    assert tick(frozen(), 111.0, RUNS).strike == (GUEST,)
    assert rules.tick(frozen(), now=at(111.0)).strike == (GUEST,), "nobody has looked"


def test_what_was_let_run_by_somebody_else_is_killed_though_its_session_is_proven_again() -> None:
    assert tick(proven(frozen(), 120.0), 120.0, RUNS).strike == (GUEST,)


def test_a_proof_alone_lets_nothing_run() -> None:
    state = proven(frozen(), 120.0)
    assert rules.may_go_on(state, GUEST, now=at(120.0)) is Refusal.NOT_ARMED
    assert state.guests[GUEST].stage is Stage.FROZEN


@pytest.mark.parametrize("session", ["s", "new"])
def test_armed_anew_under_a_session_proven_again_it_may_go_on_until_the_next_deadline(session: str) -> None:
    state = proven(frozen(), 700.0, session)
    state = accepted(rules.arm(state, GUEST, session=session, charge=FREEZE, now=at(700.5)))
    assert rules.may_go_on(state, GUEST, now=at(701.0)) is None
    assert tick(state, 709.9).steps == {}
    assert rules.may_go_on(state, GUEST, now=at(710.0)) is Refusal.EXPIRED
    assert tick(state, 710.0).freeze == (GUEST,)


def test_without_a_proof_a_frozen_guest_is_not_armed_anew() -> None:
    assert rules.arm(frozen(), GUEST, session="s", charge=FREEZE, now=at(120.0)) is Refusal.EXPIRED
    assert rules.arm(frozen(), GUEST, session="new", charge=FREEZE, now=at(120.0)) is Refusal.NOT_PROVEN


def test_a_guest_that_was_killed_is_never_armed_anew() -> None:
    state = proven(tick(frozen(), 111.0, RUNS).state, 112.0)
    assert rules.arm(state, GUEST, session="s", charge=FREEZE, now=at(112.0)) is Refusal.STOPPING


def test_a_guest_taken_in_frozen_is_held_if_it_stands_and_killed_if_not() -> None:
    for state in (State(LIMITS), proven(State(LIMITS), 700.0)):
        held = accepted(rules.hold(state, GUEST, session="s", charge=FREEZE, now=at(700.0)))
        assert tick(held, 700.1, STANDS).entered(Stage.FROZEN) == (GUEST,)
        assert tick(held, 700.1, RUNS).strike == (GUEST,)
        assert rules.may_go_on(held, GUEST, now=at(700.1)) is Refusal.NOT_ARMED


def test_a_guest_taken_in_at_its_very_deadline_has_the_rest_of_its_time_to_stand() -> None:
    late = rules.prove(State(LIMITS), "s", at_seconds=100.0, now=at(100.0))
    held = accepted(rules.hold(late, GUEST, session="s", charge=FREEZE, now=at(111.0)))
    assert tick(held, 111.1).freeze == (GUEST,)
    assert tick(held, 112.5).strike == (GUEST,)


def test_what_nobody_can_let_run_again_is_killed_instead_of_frozen() -> None:
    assert tick(rules.abandon(armed(), [GUEST]), 109.9).steps == {}
    assert tick(rules.abandon(armed(), [GUEST]), 110.0).strike == (GUEST,)
    assert tick(rules.abandon(frozen(), [GUEST]), 111.0, STANDS).strike == (GUEST,)
    assert tick(rules.abandon(frozen(), []), 111.0, STANDS).strike == ()
    assert tick(rules.abandon(armed(COMMAND), [GUEST]), 110.0).command == (GUEST,)


def test_a_command_has_its_time_and_then_the_guest_is_killed() -> None:
    begun = tick(armed(COMMAND), 110.0)
    assert (begun.command, begun.strike) == ((GUEST,), ())
    assert tick(begun.state, 112.4, COMMANDING).steps == {}
    assert tick(begun.state, 112.5, COMMANDING).strike == (GUEST,)
    assert tick(begun.state, 110.1).strike == (GUEST,), "it has ended"


def test_nothing_saves_a_guest_whose_command_was_started() -> None:
    state = proven(tick(armed(COMMAND), 110.0).state, 111.0)
    assert rules.arm(state, GUEST, session="s", charge=COMMAND, now=at(111.0)) is Refusal.STOPPING
    assert tick(state, 112.5, COMMANDING).strike == (GUEST,)


def test_a_charge_and_limits_are_carried_over_the_wire_as_they_are() -> None:
    charge = Charge(Action.COMMAND, (("A", "b c=d\ne"), ("EMPTY", ""), ("ODD", "\udcff")))
    words = wire.unpack(wire.pack(wire.ARM, 1, GUEST, wire.pack_charge("s", charge)))
    assert wire.unpack_charge(words[3]) == ("s", charge)
    words = wire.unpack(wire.pack(wire.LIMITS, 1, *wire.pack_limits(LIMITS)))
    assert wire.unpack_limits(*words[2:]) == LIMITS


WORDS = st.lists(st.tuples(st.sampled_from(["prove", "arm", "look", "stir"]), st.floats(0.05, 8.0)), max_size=40)


@given(words=WORDS)
def test_whatever_happens_a_guest_that_was_frozen_runs_on_only_armed_after_a_later_proof(
    words: list[tuple[str, float]],
) -> None:
    now, state, newest = 110.1, frozen(), 100.0
    for word, passed in words:
        now += passed
        if word == "prove":
            state, newest = proven(state, now), now
        elif word == "arm":
            answer = rules.arm(state, GUEST, session="s", charge=FREEZE, now=at(now))
            state = answer if isinstance(answer, State) else state
        may_run = rules.may_go_on(state, GUEST, now=at(now)) is None
        assert not may_run or newest > 110.0
        assert not may_run or now < newest + LIMITS.stop_after_seconds
        due = tick(state, now, RUNS if word == "stir" and not may_run else STANDS)
        assert may_run or due.steps, "it stands or is struck, and is looked at"
        if word == "stir" and not may_run:
            assert due.strike or due.freeze
        state = due.state
