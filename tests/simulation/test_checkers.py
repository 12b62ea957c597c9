"""The checkers see what they are there to see, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from etcdlock.model import SessionRef
from etcdlock.ports import Compare, Delete, Get, KeyRange, Put, Relation, Target, Txn, TxnResult
from etcdlock.testing import Applied, Entry, Sent
from tests.promises.judge import Moment
from tests.promises.span import FOR_EVER, Span, without
from tests.promises.test_judge import DOMAIN, FIRST, record
from tests.promises.world import KEYS, TIMING
from tests.simulation.checkers import (
    Proven,
    hasty_proofs,
    outlived_budgets,
    proofs_of_sessions,
    shared_names,
    taken_by_the_gone,
)

KEY = KEYS.session(SessionRef("a", "s"))
LOST = KEYS.obituary(SessionRef("a", "s"))
BUDGET = TIMING.budget_seconds
HOLD_OFF = TIMING.hold_off_seconds


def heartbeat(*, created: int = 3) -> Txn:
    compare = Compare(KeyRange(KEY), Target.CREATE_REVISION, Relation.EQUAL, created)
    return Txn((compare,), (Delete(KeyRange(KEYS.never)),))


def committed(txn: Txn, *, sent: float, applied: float, number: int = 1, succeeded: bool = True) -> list[Entry]:
    return [Sent(sent, "a", number, txn), Applied(applied, "a", number, txn, TxnResult(succeeded, 5, ()))]


def test_a_session_is_proven_by_joins_and_heartbeats_that_have_committed_from_when_they_were_sent() -> None:
    join = Txn((), (Put(KEY, b"{}", lease=1),))
    history = [
        *committed(join, sent=1.0, applied=2.0),
        *committed(heartbeat(), sent=3.0, applied=4.5, number=2),
        *committed(heartbeat(), sent=5.0, applied=6.0, number=3, succeeded=False),
    ]
    assert proofs_of_sessions(history) == {KEY: Proven([2.0, 4.5], [1.0, 3.0])}


def test_what_compares_nothing_or_begins_a_new_epoch_proves_nothing() -> None:
    bare = Txn((), (Delete(KeyRange(KEYS.never)),))
    barrier = Txn((), (Put(KEY, b"{}", lease=1), Get(KeyRange(DOMAIN))))
    absent = heartbeat(created=0)
    for txn in (bare, barrier, absent):
        assert proofs_of_sessions(committed(txn, sent=1.0, applied=2.0)) == {}


def moments(*states: tuple[float, dict[str, Any]]) -> list[Moment]:
    return [Moment(number, instant, values) for number, (instant, values) in enumerate(states)]


def late(span: Span, proven: Proven, *states: tuple[float, dict[str, Any]], slowest: float = 1.0) -> int:
    return len(outlived_budgets([span], moments(*states), {KEY: proven}, timing=TIMING, slowest=slowest))


def test_a_guest_that_runs_past_its_sessions_budget_is_seen() -> None:
    states: tuple[tuple[float, dict[str, Any]], ...] = ((0.5, {DOMAIN: record()}), (100.0, {}))
    once = Proven([0.9], [0.5])
    in_time = Span("a", FIRST.uuid, 7, token=5, began=1.0, ended=0.5 + BUDGET, exclusive=FIRST.exclusive)
    assert late(in_time, once, *states) == 0
    too_late = Span("a", FIRST.uuid, 7, token=5, began=1.0, ended=0.6 + BUDGET, exclusive=FIRST.exclusive)
    assert late(too_late, once, *states) == 1
    assert late(too_late, once, *states, slowest=0.99) == 0
    assert late(too_late, Proven([0.9, 20.0], [0.5, 19.0]), *states) == 0
    assert late(too_late, Proven([0.9, 0.55 + BUDGET], [0.5, 19.0]), *states) == 1, "the second proof came too late"
    assert late(too_late, Proven(), *states) == 1


def test_a_guest_has_its_new_sessions_time_only_once_its_record_names_that() -> None:
    other = KEYS.session(SessionRef("a", "new"))
    span = Span("a", FIRST.uuid, 7, token=5, began=1.0, ended=40.0, exclusive=FIRST.exclusive)
    old, new = Proven([0.9], [0.5]), Proven([20.0, 30.0], [19.0, 29.0])
    for rejoined, expected in ((20.0, 0), (30.0, 1)):
        states = moments((0.5, {DOMAIN: record()}), (rejoined, {DOMAIN: record(session="new")}), (100.0, {}))
        found = outlived_budgets([span], states, {KEY: old, other: new}, timing=TIMING, slowest=1.0)
        assert len(found) == expected


def test_a_proof_by_silence_before_the_hold_off_and_one_beside_a_living_key_are_seen() -> None:
    alive, by_silence = {KEY: {"boot": "b"}}, {LOST: {"proof": "silence", "session": "s"}}

    def hasty(*states: tuple[float, dict[str, Any]], fastest: float = 1.0) -> int:
        return len(hasty_proofs(moments(*states), timing=TIMING, fastest=fastest))

    assert hasty((1.0, alive), (5.0, {}), (5.0 + HOLD_OFF, by_silence)) == 0
    assert hasty((1.0, alive), (5.0, {}), (4.9 + HOLD_OFF, by_silence)) == 1
    assert hasty((1.0, alive), (5.0, {}), (4.99 + HOLD_OFF, by_silence), fastest=1.001) == 0
    assert hasty((1.0, alive), (5.0, {}), (6.0, {LOST: {"proof": "reboot", "session": "s"}})) == 0
    assert hasty((1.0, alive), (50.0, alive | by_silence)) == 1


def test_two_boots_under_one_name_are_seen_and_two_programs_of_one_boot_are_none() -> None:
    second = KEYS.session(SessionRef("a", "t"))
    assert shared_names(moments((1.0, {KEY: {"boot": "b"}, second: {"boot": "b"}}))) == []
    assert len(shared_names(moments((1.0, {KEY: {"boot": "b"}, second: {"boot": "c"}})))) == 1
    elsewhere = KEYS.session(SessionRef("aa", "t"))
    assert shared_names(moments((1.0, {KEY: {"boot": "b"}, elsewhere: {"boot": "c"}}))) == []


def test_a_lock_that_goes_to_a_session_without_a_key_is_seen() -> None:
    alive, taken = {KEY: {"boot": "b"}}, {DOMAIN: record(mod=1)}
    assert taken_by_the_gone(moments((1.0, alive), (2.0, alive | taken))) == []
    assert len(taken_by_the_gone(moments((1.0, alive), (2.0, taken)))) == 1
    carried = {DOMAIN: record(mod=2, session="t")}
    assert len(taken_by_the_gone(moments((1.0, alive), (2.0, alive | taken), (3.0, carried)))) == 1
    back = {DOMAIN: record(mod=2, session="t", state="parked")}
    assert taken_by_the_gone(moments((1.0, alive), (2.0, alive | taken), (3.0, back))) == []


@pytest.mark.parametrize(
    ("stood", "left"),
    [
        ([], [(1.0, 10.0)]),
        ([(3.0, 5.0)], [(1.0, 3.0), (5.0, 10.0)]),
        ([(0.5, 2.0)], [(2.0, 10.0)]),
        ([(3.0, None)], [(1.0, 3.0)]),
        ([(12.0, None)], [(1.0, 10.0)]),
        ([(3.0, 4.0), (4.0, 20.0)], [(1.0, 3.0)]),
    ],
)
def test_a_guest_does_not_run_while_it_is_frozen(
    stood: list[tuple[float, float | None]], left: list[tuple[float, float]]
) -> None:
    assert [(span.began, span.ended) for span in without(FIRST, stood)] == left
    assert FIRST.ended < FOR_EVER
