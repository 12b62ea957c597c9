"""The timing contract: its worst case adds up, and what could let a guest outlive its proof is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcdlock.errors import UnsafeTiming
from etcdlock.timing import EXPIRY_SCAN_SECONDS, GREATEST_RATE_ERROR, WATCHDOG_SPARE_SECONDS, Timing

SECONDS = st.floats(min_value=-1.0, max_value=200.0) | st.just(math.nan)


def test_the_defaults_give_the_worst_case_that_is_written_down() -> None:
    timing = Timing()
    assert timing.suspect_after_seconds == pytest.approx(3.5)
    assert timing.stop_after_seconds == pytest.approx(18.45, abs=0.01)
    assert timing.budget_seconds == pytest.approx(24.45, abs=0.01)
    assert timing.takeover_seconds == pytest.approx(36.0)


@given(
    ttl=st.integers(min_value=-1, max_value=100),
    hold_off=SECONDS,
    renew=SECONDS,
    tries=SECONDS,
    kill=SECONDS,
    lag=SECONDS,
    rho=st.floats(min_value=-0.1, max_value=0.2) | st.just(math.nan),
)
def test_whatever_is_accepted_everything_is_dead_before_the_earliest_obituary_on_the_worst_clocks(
    ttl: int, hold_off: float, renew: float, tries: float, kill: float, lag: float, rho: float
) -> None:
    try:
        timing = Timing(
            ttl_seconds=ttl,
            hold_off_seconds=hold_off,
            renew_every_seconds=renew,
            try_timeout_seconds=tries,
            kill_seconds=kill,
            guard_lag_seconds=lag,
            clock_rate_error=rho,
        )
    except UnsafeTiming:
        return
    slow, fast = 1.0 - rho, 1.0 + rho
    dead_at = (timing.stop_after_seconds + lag + kill) / slow  # true seconds after S, on the slowest clock
    obituary_at = hold_off / fast  # true seconds after S, had the key gone at S and the other clock been the fastest
    assert dead_at < obituary_at
    assert 0.0 < timing.second_try_seconds < timing.stop_after_seconds < timing.budget_seconds < hold_off
    assert timing.second_try_seconds < ttl


def test_every_default_is_accepted_for_a_lease_that_etcd_made_longer_and_refused_for_one_too_short() -> None:
    timing = Timing()
    assert timing.granted(timing.ttl_seconds) is timing
    assert timing.granted(15).takeover_seconds == 15 + EXPIRY_SCAN_SECONDS + timing.hold_off_seconds
    with pytest.raises(UnsafeTiming, match="ttl_seconds"):
        timing.granted(5)


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"hold_off_seconds": 10.0}, "hold_off_seconds is too short"),
        ({"kill_seconds": 20.0}, "hold_off_seconds is too short"),
        ({"kill_seconds": 0.0}, "must be above 0"),
        ({"guard_lag_seconds": -1.0}, "must be above 0"),
        ({"renew_every_seconds": 0.0}, "must be above 0"),
        ({"renew_every_seconds": 5.0}, "ttl_seconds must be above"),
        ({"ttl_seconds": 1, "renew_every_seconds": 0.1, "try_timeout_seconds": 0.1}, "ttl_seconds must be at least 2"),
        ({"clock_rate_error": GREATEST_RATE_ERROR * 1.01}, "clock_rate_error must be between"),
        ({"clock_rate_error": -0.001}, "clock_rate_error must be between"),
        ({"hold_off_seconds": math.nan}, "hold_off_seconds is too short"),
    ],
)
def test_unsafe_settings_are_refused_with_the_rule_and_all_that_was_given(changed: dict[str, float], rule: str) -> None:
    with pytest.raises(UnsafeTiming, match=rule) as refusal:
        Timing(**changed)  # type: ignore[arg-type]
    assert "given ttl_seconds=" in str(refusal.value)


def test_it_is_written_into_the_contract_number_by_number() -> None:
    assert Timing(**Timing().as_mapping()) == Timing()  # type: ignore[arg-type]


@given(watchdog=st.floats(min_value=-1.0, max_value=20.0) | st.just(math.nan), hold_off=st.floats(15.0, 100.0))
def test_whatever_watchdog_is_accepted_the_host_is_reset_in_time_and_never_for_guests_that_die_in_time(
    watchdog: float, hold_off: float
) -> None:
    try:
        timing = Timing(hold_off_seconds=hold_off).watched(watchdog)
    except UnsafeTiming:
        return
    if timing.watchdog_seconds == 0:
        return
    dead_at = timing.stop_after_seconds + timing.guard_lag_seconds + timing.kill_seconds
    first_reset = timing.feed_until_seconds - timing.renew_every_seconds + watchdog
    assert dead_at <= first_reset + 1e-9
    assert timing.feed_until_seconds + 2 * watchdog + WATCHDOG_SPARE_SECONDS <= timing.budget_seconds + 1e-9
    assert timing.second_try_seconds < min(timing.feed_until_seconds, timing.stop_after_seconds)


def test_a_watchdog_is_a_hosts_own_and_no_part_of_the_contract() -> None:
    timing = Timing()
    watched = timing.watched(timing.suitable_watchdog_seconds)
    assert watched.as_mapping() == timing.as_mapping()
    assert watched.stop_after_seconds == pytest.approx(10.95, abs=0.01)
    assert watched.feed_until_seconds == pytest.approx(13.95, abs=0.01)
    assert watched.takeover_seconds == timing.takeover_seconds


def test_a_watchdog_too_slow_for_the_contract_is_refused() -> None:
    with pytest.raises(UnsafeTiming, match="the watchdog, of 10 s"):
        Timing().watched(10.0)
