"""Starts guards, with the watchdog that the settings allow or demand, and says by which timing the host then goes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from etcdlock.errors import GuardLost, InvalidSetting
from etcdlock.journal import note

if TYPE_CHECKING:
    from etcdlock.adapters.guard_record import GuardRecord
    from etcdlock.adapters.guardlink import GuardLink, WatchdogReport
    from etcdlock.agent.kept_guard import KeptGuard
    from etcdlock.config import Settings
    from etcdlock.guard.rules import Limits
    from etcdlock.guard.wire import Equipment
    from etcdlock.timing import Timing


async def start_guard(settings: Settings, /, *, started: Callable[[int], None]) -> KeptGuard:
    """A guard process without a watchdog, for one guest of our own, replaced when it dies; `started` hears of each
    one's pid before anything is armed there.
    """
    from etcdlock.adapters.guardlink import GuardLink
    from etcdlock.agent.kept_guard import KeptGuard

    timing = settings.contract.timing

    async def start() -> GuardLink:
        equipment = _equipment(settings, parent=os.getpid())
        link = await GuardLink.start(limits=lambda _: limits_of(timing), equipment=equipment)
        started(link.pid)
        return link

    return KeptGuard(await start(), start=start)


async def start_agents_guard(
    settings: Settings, guards: GuardRecord, /, *, new_ring: Callable[[], str] = str
) -> tuple[KeptGuard, Timing]:
    """The guard of a host's agent, and the timing that it and the agent go by. Its record tells the next agent; what it
    does it notes at the path that `new_ring` gives for it.

    Raises `InvalidSetting` where a watchdog is required and cannot be had, `UnsafeTiming` where its timeout is too
    long.
    """
    from etcdlock.adapters.clock import BootClock
    from etcdlock.adapters.guardlink import GuardLink
    from etcdlock.agent.kept_guard import KeptGuard

    agreed: list[Timing] = []
    kept: list[KeptGuard] = []

    def wants_watchdog() -> bool:
        if not agreed:
            return settings.watchdog != "off"
        if not agreed[0].watchdog_seconds:
            return False
        until = agreed[0].feed_until_seconds
        if kept and not kept[0].may_watch(now=BootClock().now(), feed_until_seconds=until):
            note("watchdog_not_opened", level=logging.CRITICAL, reason="a guest lives that must not")
            return False
        return True

    def limits(report: WatchdogReport) -> Limits:
        if not agreed:
            agreed.append(agreed_timing(settings, report, earlier_seconds=guards.earlier_watchdog_seconds))
        elif agreed[0].watchdog_seconds and report.is_absent:
            _without(settings, f"the watchdog is gone: {report.reason}", lost=True)
        return limits_of(agreed[0])

    async def start() -> GuardLink:
        device = settings.watchdog_device if wants_watchdog() else ""
        equipment = _equipment(settings, watchdog=device, record=new_ring())
        link = await GuardLink.start(limits=limits, equipment=equipment, unit=settings.guard_path)
        note("guard_started", pid=link.pid, in_its_own_unit=not link.is_child)
        guards.add(link.pid, watchdog_seconds=agreed[0].watchdog_seconds)
        return link

    first = await start()
    if first.watchdog.is_busy and not agreed[0].watchdog_seconds:
        await first.close()     # it would go on asking for what another program has
        first = await start()
    kept.append(KeptGuard(first, start=start))
    return kept[0], agreed[0]


def agreed_timing(settings: Settings, report: WatchdogReport, /, *, earlier_seconds: float) -> Timing:
    """By what the guard says of the watchdog. One that an earlier agent's guard has will be ours, as it is."""
    timing = settings.contract.timing
    if settings.watchdog == "off":
        return timing
    if report.is_open:
        note("watchdog", device=settings.watchdog_device, timeout_seconds=report.seconds)
        return timing.watched(report.seconds)
    if report.is_busy and earlier_seconds:
        return timing.watched(earlier_seconds)
    text = f"{report.reason}: another program has it" if report.is_busy else report.reason
    _without(settings, text, lost=False)
    return timing


def limits_of(timing: Timing, /) -> Limits:
    """What the guard is told of a host's timing."""
    from etcdlock.guard.rules import Limits

    return Limits(
        stop_after_seconds=timing.stop_after_seconds,
        act_seconds=timing.act_seconds,
        kill_seconds=timing.kill_seconds + timing.guard_lag_seconds,
        budget_seconds=timing.budget_seconds,
        feed_every_seconds=timing.renew_every_seconds,
    )


def _equipment(settings: Settings, /, *, watchdog: str = "", parent: int = 0, record: str = "") -> Equipment:
    from etcdlock.guard.wire import Equipment

    command = (settings.on_session_lost_command,) if settings.on_session_lost_command else ()
    return Equipment(watchdog, settings.contract.timing.suitable_watchdog_seconds, command, parent, record)


def _without(settings: Settings, reason: str, /, *, lost: bool) -> None:
    """Go on without a watchdog, where that is allowed."""
    if settings.watchdog != "required":
        note("no_watchdog", level=logging.WARNING, reason=reason)
        return
    if lost:
        raise GuardLost(f"watchdog is 'required': {reason}")
    raise InvalidSetting(
        f"watchdog is 'required', but {reason}",
        hint="load a watchdog driver (modprobe softdog), let nobody else have it (systemd: RuntimeWatchdogSec=off), "
        "or set watchdog to automatic or off",
    )
