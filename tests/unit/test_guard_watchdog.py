"""The watchdog is fed only while everything would be dead in time if the guard stalled right after."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcdlock.escalation import Action, Charge, Sight, Stage
from etcdlock.guard import rules, wire
from etcdlock.guard.instant import Reading
from etcdlock.guard.rules import Limits, State
from etcdlock.guard.table import Name
from etcdlock.guard.watchdog import ABSENT, BUSY, OFF, OPEN, Device, Watchdog
from etcdlock.timing import Timing

GUEST, OTHER = Name(500, 9000), Name(600, 9100)
TIMING = Timing().watched(5.0)
LIMITS = Limits(
    TIMING.stop_after_seconds, TIMING.act_seconds, 6.0, TIMING.budget_seconds, feed_every_seconds=2.0
)
EMPTY = State(LIMITS)


class FakeDevice(Device):
    """A device in memory. It tells what was done to it, and when it would reset the host."""

    def __init__(self, *, granted: int | None = None, magic: bool = True) -> None:
        self.granted = granted
        self.magic = magic
        self.timeout = 60
        self.done: list[str] = []

    def survives_us(self) -> bool:
        return self.magic

    def set_timeout(self, seconds: int, /) -> int:
        self.timeout = seconds if self.granted is None else self.granted
        return self.timeout

    def feed(self) -> None:
        self.done.append("feed")

    def close(self, *, for_good: bool) -> None:
        self.done.append("stop" if for_good else "let go")


def opened(device: Device) -> Watchdog:
    watchdog = Watchdog("/dev/watchdog", wanted_seconds=5, opening=lambda _: device)
    watchdog.open()
    return watchdog


def at(seconds: float) -> Reading:
    return Reading(seconds, seconds)


def armed(
    *, proven_at: float = 100.0, action: Action = Action.KILL, state: State = EMPTY, guest: Name = GUEST
) -> State:
    session = f"s{guest.pid}"
    state = rules.prove(state, session, at_seconds=proven_at, now=at(proven_at))
    answer = rules.arm(state, guest, session=session, charge=Charge(action), now=at(proven_at))
    assert isinstance(answer, State)
    return answer


def fed(state: State, now: float, *, seconds: float = 5.0) -> bool:
    return rules.may_feed(state, watchdog_seconds=seconds, now=at(now))


LAST_FEED = 100.0 + TIMING.feed_until_seconds


def test_it_is_fed_until_two_timeouts_before_everything_must_be_dead() -> None:
    assert fed(armed(), LAST_FEED - 0.001)
    assert not fed(armed(), LAST_FEED + 0.001)


def test_without_guests_it_is_always_fed() -> None:
    assert fed(EMPTY, 1e6)
    assert fed(rules.disarm(armed(), GUEST), 1e6)


def test_every_session_with_guests_must_allow_it() -> None:
    both = armed(proven_at=110.0, state=armed(), guest=OTHER)
    assert fed(both, LAST_FEED - 0.1)
    assert not fed(both, LAST_FEED + 0.1)
    assert fed(rules.disarm(both, GUEST), LAST_FEED + 0.1)


def test_it_is_not_fed_for_a_guest_that_does_not_die() -> None:
    stuck = rules.tick(armed(), now=at(100.0 + TIMING.stop_after_seconds)).state
    assert not fed(stuck, 100.0 + TIMING.budget_seconds)
    assert not fed(stuck, 1e6)


def test_it_is_fed_for_guests_that_were_seen_to_stand_and_for_no_others() -> None:
    stop_at = 100.0 + TIMING.stop_after_seconds
    freezing = rules.tick(armed(action=Action.FREEZE), now=at(stop_at)).state
    assert not fed(freezing, 1000.0)
    frozen = rules.tick(freezing, now=at(stop_at + 0.1), sights={GUEST: Sight(stands=True)}).state
    assert frozen.guests[GUEST].stage is Stage.FROZEN
    assert fed(frozen, 1000.0)
    stirred = rules.tick(frozen, now=at(1000.0)).state
    assert not fed(stirred, 1000.0)


@given(seconds=st.floats(1.0, 9.0), asked=st.floats(0.0, 30.0), stalled=st.floats(0.0, 100.0))
def test_however_long_the_guard_stalls_between_looking_and_feeding_the_host_is_down_in_time(
    seconds: float, asked: float, stalled: float
) -> None:
    now = 100.0 + asked
    if not fed(armed(), now, seconds=seconds):
        return
    before = now        # it was fed at the latest when it was asked: else the host would be down
    feeds_at = now + stalled
    down_at = (feeds_at if feeds_at <= before + seconds else before) + seconds
    assert down_at <= 100.0 + TIMING.budget_seconds - rules.WATCHDOG_SPARE_SECONDS + 1e-9


def test_guests_that_die_in_time_never_cost_the_host_a_reset() -> None:
    """The last feeding may be as long before the limit as two of them lie apart."""
    dead_at = TIMING.stop_after_seconds + TIMING.guard_lag_seconds + TIMING.kill_seconds
    assert dead_at <= TIMING.feed_until_seconds - TIMING.renew_every_seconds + TIMING.watchdog_seconds + 1e-9


# ---- the device


def test_it_is_asked_for_its_timeout_and_goes_by_the_one_it_has() -> None:
    watchdog = opened(FakeDevice(granted=8))
    assert (watchdog.standing, watchdog.seconds) == (OPEN, 8.0)


def test_it_is_fed_when_it_is_due_and_only_if_it_may_be() -> None:
    device = FakeDevice()
    watchdog = opened(device)
    for now, may in ((0.0, True), (0.1, True), (1.3, False), (1.4, True), (2.0, True), (2.7, True)):
        watchdog.attend(now_seconds=now, every_seconds=2.0, may_feed=lambda seconds, may=may: may and seconds == 5.0)  # type: ignore[misc]
    assert device.done == ["feed"] * 3
    assert watchdog.wait_seconds(now_seconds=2.7) == 1.25


def test_it_stops_in_an_orderly_end_without_guests_and_runs_on_with_any() -> None:
    for guests, done in ((False, "stop"), (True, "let go")):
        device = FakeDevice()
        opened(device).end(guests=guests)
        assert device.done == [done]


def test_one_that_stops_with_its_process_or_tells_no_timeout_is_refused() -> None:
    for device, reason in ((FakeDevice(magic=False), "stops with its process"), (FakeDevice(granted=0), "no timeout")):
        watchdog = opened(device)
        assert watchdog.standing == ABSENT
        assert reason in watchdog.reason
        assert device.done == ["stop"]


def test_one_that_another_has_is_asked_for_until_it_is_free() -> None:
    device, answers = FakeDevice(), [errno.EBUSY, errno.EBUSY]

    def opening(_: str) -> Device:
        if answers:
            raise OSError(answers.pop(), os.strerror(errno.EBUSY))
        return device

    watchdog = Watchdog("/dev/watchdog", wanted_seconds=5, opening=opening)
    assert [(watchdog.open(), watchdog.standing) for _ in range(4)] == [
        (False, BUSY),
        (False, BUSY),
        (True, OPEN),
        (False, OPEN),
    ]


def test_one_that_may_not_be_opened_yet_is_asked_about_until_it_may() -> None:
    device, may = FakeDevice(), iter((False, False, True))
    watchdog = Watchdog("/dev/watchdog", wanted_seconds=5, opening=lambda _: device)
    assert [(watchdog.open(lambda: next(may)), watchdog.standing) for _ in range(3)] == [
        (False, BUSY),
        (False, BUSY),
        (True, OPEN),
    ]


def test_it_may_be_opened_when_it_may_be_fed_with_the_timeout_by_which_the_host_goes() -> None:
    limits = replace(LIMITS, watchdog_seconds=5.0)
    assert wire.unpack_limits(*wire.pack_limits(limits)) == limits
    state = armed(state=State(limits))
    assert rules.may_open(state, now=at(LAST_FEED - 0.001))
    assert not rules.may_open(state, now=at(LAST_FEED + 0.001))
    assert rules.may_open(rules.disarm(state, GUEST), now=at(1e6))


@pytest.mark.parametrize(("path", "standing"), [("", OFF), ("/no/such/device", ABSENT), ("/dev/null", ABSENT)])
def test_what_is_no_watchdog_is_none(path: str, standing: str) -> None:
    watchdog = Watchdog(path, wanted_seconds=5)
    assert watchdog.open() == (standing == ABSENT), "news"
    assert watchdog.standing == standing
    assert watchdog.wait_seconds(now_seconds=0.0) is None
    watchdog.attend(now_seconds=0.0, every_seconds=1.0, may_feed=lambda _: True)
    watchdog.end(guests=False)


def test_one_that_waits_is_not_touched_before_it_is_told_to_wait_no_longer() -> None:
    device = FakeDevice()
    watchdog = Watchdog("/dev/watchdog", wanted_seconds=5, waits=True, opening=lambda _: device)
    assert not watchdog.open()
    assert watchdog.wait_seconds(now_seconds=0.0) is None
    watchdog.end(guests=False)
    assert device.done == []
    watchdog = Watchdog("/dev/watchdog", wanted_seconds=5, waits=True, opening=lambda _: device)
    watchdog.wait_no_longer()
    assert watchdog.open()
    assert watchdog.news == (wire.WATCHING, 5.0)
