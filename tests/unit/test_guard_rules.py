"""What the guard decides, without a guard: deadlines, refusals, and whose process is whose."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from etcdlock.escalation import Action, Charge, Sight
from etcdlock.guard import rules, table, wire
from etcdlock.guard.instant import Reading
from etcdlock.guard.rules import Limits, Quiet, Refusal, State
from etcdlock.guard.table import Name, Process, Table

GUEST = Name(500, 9000)
OTHER = Name(600, 9100)
LIMITS = Limits(stop_after_seconds=10.0, act_seconds=2.5, kill_seconds=5.0, budget_seconds=15.0)
EMPTY = State(LIMITS)


def at(steady: float, *, boot: float | None = None) -> Reading:
    return Reading(steady, steady if boot is None else boot)


def armed(guest: Name = GUEST, *, session: str = "s", proven_at: float = 100.0) -> State:
    state = rules.prove(EMPTY, session, at_seconds=proven_at, now=at(proven_at))
    after = rules.arm(state, guest, session=session, now=at(proven_at))
    assert isinstance(after, State)
    return after


def test_a_guest_is_struck_at_its_deadline_and_not_before() -> None:
    state = armed()
    assert rules.tick(state, now=at(109.999)).strike == ()
    assert rules.tick(state, now=at(110.0)).strike == (GUEST,)


@given(
    steady=st.floats(90.0, 130.0), boot=st.floats(90.0, 130.0), action=st.sampled_from(Action),
    sight=st.builds(Sight, stands=st.booleans(), commanding=st.booleans()), proven_at=st.floats(99.0, 109.0),
)  # fmt: skip
def test_what_is_quiet_needs_nothing_done_whatever_is_seen_and_is_quiet_until_its_first_deadline(
    steady: float, boot: float, action: Action, sight: Sight, proven_at: float
) -> None:
    state = rules.prove(armed(), "t", at_seconds=proven_at, now=at(109.0))
    both = rules.arm(state, OTHER, session="t", now=at(99.0), charge=Charge(action))
    assert isinstance(both, State)
    now = at(steady, boot=boot)
    due = rules.tick(both, now=now, sights={GUEST: sight, OTHER: sight})
    left = Quiet().seconds(both, now=now)
    assert left == max(min(rules.wait_seconds(state, now=now) or 0.0, rules.wait_seconds(both, now=now) or 0.0), 0.0)
    assert left == 0.0 or (due.steps == {} and due.state is both)


def test_it_is_quiet_no_more_once_something_was_done_about_a_guest_and_always_without_one() -> None:
    struck = rules.tick(armed(), now=at(110.0)).state
    assert Quiet().seconds(struck, now=at(100.0)) == 0.0
    assert Quiet().seconds(EMPTY, now=at(1e9)) == float("inf")


def test_as_long_as_the_state_holds_its_guests_are_not_looked_at_again() -> None:
    class Counted(dict[Name, rules.Armed]):
        looks = 0

        def values(self) -> Any:
            self.looks += 1
            return super().values()

    guests = Counted(armed().guests)
    state, quiet = replace(armed(), guests=guests), Quiet()
    seconds = [quiet.seconds(state, now=at(now)) for now in (101.0, 102.0, 111.0)]
    looks = guests.looks
    assert seconds == [9.0, 8.0, 0.0]
    assert quiet.seconds(state, now=at(105.0)) == 5.0
    assert guests.looks == looks
    assert quiet.seconds(rules.prove(state, "s", at_seconds=104.0, now=at(105.0)), now=at(105.0)) == 9.0


def test_a_proof_moves_the_deadline_and_an_older_one_does_not_move_it_back() -> None:
    state = rules.prove(armed(), "s", at_seconds=105.0, now=at(106.0))
    state = rules.prove(state, "s", at_seconds=101.0, now=at(107.0))
    assert rules.tick(state, now=at(114.9)).strike == ()
    assert rules.tick(state, now=at(115.0)).strike == (GUEST,)


def test_a_proof_counts_from_when_it_was_sent_not_from_when_it_arrived() -> None:
    state = rules.prove(armed(), "s", at_seconds=102.0, now=at(109.0))
    assert rules.tick(state, now=at(112.0)).strike == (GUEST,)


def test_a_proof_from_the_future_counts_from_now() -> None:
    state = rules.prove(armed(), "s", at_seconds=5000.0, now=at(101.0))
    assert rules.tick(state, now=at(111.0)).strike == (GUEST,)


def test_a_proof_of_another_session_does_not_help() -> None:
    state = rules.prove(armed(), "t", at_seconds=108.0, now=at(108.0))
    assert rules.tick(state, now=at(110.0)).strike == (GUEST,)


def test_the_clock_that_moved_more_counts() -> None:
    state = armed()
    assert rules.tick(state, now=at(105.0, boot=110.0)).strike == (GUEST,)
    assert rules.tick(state, now=at(110.0, boot=105.0)).strike == (GUEST,)
    assert rules.tick(state, now=at(109.0, boot=109.0)).strike == ()
    assert rules.wait_seconds(state, now=at(105.0, boot=108.0)) == 2.0


def test_a_session_that_is_not_proven_takes_no_guests_in() -> None:
    proven = rules.prove(EMPTY, "s", at_seconds=100.0, now=at(100.0))
    assert rules.arm(EMPTY, GUEST, session="s", now=at(100.0)) is Refusal.NOT_PROVEN
    assert rules.arm(proven, GUEST, session="s", now=at(110.0)) is Refusal.EXPIRED
    assert isinstance(rules.arm(proven, GUEST, session="s", now=at(109.9)), State)


def test_a_guest_that_is_being_stopped_is_saved_by_nothing() -> None:
    struck = rules.tick(armed(), now=at(110.0)).state
    struck = rules.prove(struck, "s", at_seconds=111.0, now=at(111.0))
    assert rules.arm(struck, GUEST, session="s", now=at(111.0)) is Refusal.STOPPING
    assert rules.tick(struck, now=at(111.1)).strike == (GUEST,)
    assert rules.wait_seconds(struck, now=at(111.1)) == rules.STRIKE_EVERY_SECONDS


def test_a_guest_moves_to_the_session_it_was_armed_for_last() -> None:
    state = rules.prove(armed(), "t", at_seconds=105.0, now=at(105.0))
    moved = rules.arm(state, GUEST, session="t", now=at(105.0))
    assert isinstance(moved, State)
    assert rules.tick(moved, now=at(110.0)).strike == ()
    assert rules.tick(moved, now=at(115.0)).strike == (GUEST,)


def test_a_guest_that_will_not_die_is_struck_on_and_reported_once() -> None:
    first = rules.tick(armed(), now=at(110.0))
    assert first.stuck == ()
    second = rules.tick(first.state, now=at(115.0))
    assert (second.strike, second.stuck) == ((GUEST,), (GUEST,))
    third = rules.tick(second.state, now=at(116.0))
    assert (third.strike, third.stuck) == ((GUEST,), ())


def test_a_disarmed_guest_is_left_alone_and_the_others_are_not() -> None:
    both = rules.arm(armed(), OTHER, session="s", now=at(100.0))
    assert isinstance(both, State)
    assert rules.tick(both, now=at(110.0)).strike == (GUEST, OTHER)
    assert rules.tick(rules.disarm(both, GUEST), now=at(110.0)).strike == (OTHER,)
    assert rules.wait_seconds(rules.disarm(rules.disarm(both, GUEST), OTHER), now=at(110.0)) is None


def test_sessions_that_ran_out_are_forgotten_unless_a_guest_counts_on_them() -> None:
    state = rules.prove(armed(), "t", at_seconds=101.0, now=at(101.0))
    state = rules.prove(state, "u", at_seconds=500.0, now=at(500.0))
    assert set(state.proven) == {"s", "u"}


@given(proofs=st.lists(st.tuples(st.floats(0, 50), st.floats(0, 20)), max_size=20), late=st.floats(0, 100))
def test_no_guest_is_spared_past_its_newest_proof_and_budget(proofs: list[tuple[float, float]], late: float) -> None:
    now, newest, state = 100.0, 100.0, armed()
    for passed, age in proofs:
        now += passed
        newest = max(newest, now - age)
        state = rules.prove(state, "s", at_seconds=now - age, now=at(now))
    overdue = max(now, newest + LIMITS.stop_after_seconds + 1e-6) + late
    assert rules.tick(state, now=at(overdue)).strike == (GUEST,)


# ---- whose process is whose

STAT = b"(%s) S %d %d 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 %d 0 %d 1 1"


def process(pid: int, *, start: int, parent: int = 1, group: int = 0, alive: bool = True) -> Process:
    return Process(Name(pid, start), parent=parent, group=group or pid, alive=alive, waiting=False)


def members(*processes: Process, known: frozenset[Name] = frozenset(), adopter: int = 0, spared: int = 0) -> set[int]:
    left_alone = frozenset(process.name for process in processes if process.name.pid == spared)
    found = table.family(Table(processes), leader=GUEST, known=known, adopter=adopter, spared=left_alone)
    return {process.name.pid for process in found}


LEADER = process(500, start=9000, parent=400)


def test_a_stat_line_is_read_whatever_the_command_is_called() -> None:
    line = b"77 " + STAT % (b"a) R 1 (b ) S", 5, 6, 1, 4242)
    assert table.parse(line) == Process(Name(77, 4242), parent=5, group=6, alive=True, waiting=False)


def test_a_process_whose_first_thread_ended_still_lives() -> None:
    zombie = b"77 " + (STAT % (b"x", 5, 6, 1, 42)).replace(b") S", b") Z")
    threads_left = b"77 " + (STAT % (b"x", 5, 6, 3, 42)).replace(b") S", b") Z")
    assert not table.parse(zombie).alive
    assert table.parse(threads_left).alive


def test_a_guest_is_its_leader_its_group_and_their_descendants() -> None:
    mate = process(501, start=9001, parent=1, group=500)
    child = process(502, start=9002, parent=501)
    grandchild = process(503, start=9003, parent=502)
    stranger = process(504, start=9004, parent=400)
    assert members(LEADER, mate, child, grandchild, stranger) == {500, 501, 502, 503}


def test_a_group_whose_leader_is_dead_but_not_reaped_is_still_the_guests() -> None:
    dead = process(500, start=9000, parent=400, alive=False)
    assert members(dead, process(501, start=9001, group=500)) == {501}


def test_a_pid_that_is_used_again_is_a_stranger_and_so_is_its_group() -> None:
    stranger = process(500, start=9500)
    assert members(stranger, process(501, start=9501, group=500), process(502, start=9502, parent=500)) == set()


def test_a_group_without_a_leader_is_not_believed_unless_recognised_before() -> None:
    mate = process(501, start=9001, group=500)
    assert members(mate) == set()
    assert members(mate, known=frozenset({mate.name})) == {501}
    assert members(process(501, start=9900, group=500), known=frozenset({mate.name})) == set()


def test_what_is_older_than_the_guest_is_not_the_guests() -> None:
    assert members(LEADER, process(450, start=8000, group=500)) == {500}


def test_orphans_that_were_adopted_are_the_guests() -> None:
    assert members(LEADER, process(501, start=9001, parent=400), adopter=400) == {500, 501}
    assert members(process(501, start=9001, parent=400), adopter=400) == {501}


def test_what_its_adopter_had_before_or_is_spared_is_not_the_guests() -> None:
    sibling = process(501, start=9000, parent=400)
    guard, of_guard = process(502, start=9001, parent=400), process(503, start=9002, parent=502)
    assert members(LEADER, sibling, guard, of_guard, adopter=400, spared=502) == {500}


def test_the_kernels_table_shows_this_very_process() -> None:
    me = table.look_up(os.getpid())
    assert me is not None
    assert (me.alive, me.parent) == (True, os.getppid())
    assert table.read_table().find(me.name) is not None
    assert table.read_table().find(Name(me.name.pid, me.name.start - 1)) is None


def test_packets_carry_reasons_and_names() -> None:
    assert wire.unpack(wire.pack(wire.REFUSED, 7, "not proven any more")) == ["refused", "7", "not", "proven any more"]
    assert wire.unpack_name(str(GUEST)) == GUEST
