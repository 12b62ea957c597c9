"""Which watchdog an agent goes by, and when it refuses to begin without one."""

from __future__ import annotations

import pytest

from etcdlock.adapters.guardlink import WatchdogReport
from etcdlock.config import Settings
from etcdlock.errors import InvalidSetting, UnsafeTiming
from etcdlock.guard.watchdog import ABSENT, BUSY, OPEN
from etcdlock.guarding import limits_of
from etcdlock.watching import agreed_timing

OPENED, TAKEN = WatchdogReport(OPEN, 6.0), WatchdogReport(BUSY, 0.0, "/dev/watchdog: in use")
MISSING = WatchdogReport(ABSENT, 0.0, "/dev/watchdog: no such file")


def watchdog_of(mode: str, report: WatchdogReport, *, earlier_seconds: float = 0.0) -> float:
    settings = Settings(watchdog=mode)  # type: ignore[arg-type]
    return agreed_timing(settings, report, earlier_seconds=earlier_seconds).watchdog_seconds


@pytest.mark.parametrize("mode", ["automatic", "required"])
def test_the_timeout_is_the_one_that_was_read_back_or_that_the_earlier_guard_has(mode: str) -> None:
    assert watchdog_of(mode, OPENED) == 6.0
    assert watchdog_of(mode, TAKEN, earlier_seconds=5.0) == 5.0


@pytest.mark.parametrize("report", [TAKEN, MISSING])
def test_what_cannot_be_had_is_gone_without_or_refused(report: WatchdogReport) -> None:
    assert watchdog_of("automatic", report) == 0.0
    with pytest.raises(InvalidSetting, match=r"'required', but /dev/watchdog"):
        watchdog_of("required", report)


def test_one_that_is_too_slow_is_refused_however_it_is_wanted() -> None:
    for mode in ("automatic", "required"):
        with pytest.raises(UnsafeTiming):
            watchdog_of(mode, WatchdogReport(OPEN, 60.0))


def test_switched_off_it_plays_no_part() -> None:
    assert watchdog_of("off", OPENED) == 0.0


def test_the_guard_is_told_the_deadline_that_leaves_the_watchdog_its_time() -> None:
    timing = Settings().contract.timing
    without, watched = limits_of(timing), limits_of(timing.watched(5.0))
    assert watched.stop_after_seconds == pytest.approx(without.stop_after_seconds - 7.5)
    assert watched.budget_seconds == without.budget_seconds
    assert (without.watchdog_seconds, watched.watchdog_seconds) == (0.0, 5.0)
