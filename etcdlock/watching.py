"""The guard of a host's agent, with the watchdog that the settings allow or demand, and the timing by which it goes.

A watchdog that was left running by guards that are dead is let run on, and not fed, until the guard knows all guests
that are left: some may live that nobody guards. So it is between a guard that dies and its successor, which has it as
soon as that knows the guests and it may be fed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from etcdlock.errors import GuardLost, InvalidSetting
from etcdlock.guarding import equipment_of, limits_of
from etcdlock.journal import note

if TYPE_CHECKING:
    from etcdlock.adapters.guard_record import GuardRecord
    from etcdlock.adapters.guardlink import GuardLink, WatchdogReport
    from etcdlock.agent.kept_guard import KeptGuard
    from etcdlock.config import Settings
    from etcdlock.guard.rules import Limits
    from etcdlock.timing import Timing


async def start_agents_guard(
    settings: Settings, guards: GuardRecord, /, *, new_ring: Callable[[], str] = str
) -> tuple[KeptGuard, Timing]:
    """The guard, and the timing that it and the agent go by. Its record tells the next agent; what it does it notes at
    the path that `new_ring` gives for it.

    Raises `InvalidSetting` where a watchdog is required and cannot be had, `UnsafeTiming` where its timeout is too
    long.
    """
    return await _Guards(settings, guards, new_ring=new_ring).first()


class _Guards:
    """Of one agent, one after the other."""

    def __init__(self, settings: Settings, guards: GuardRecord, /, *, new_ring: Callable[[], str]) -> None:
        from etcdlock.agent.kept_guard import watchdog_was_left

        self._settings = settings
        self._guards = guards
        self._new_ring = new_ring
        self._was_left = settings.watchdog != "off" and watchdog_was_left(guards.earlier_watches)
        self._agreed: Timing | None = None

    async def first(self) -> tuple[KeptGuard, Timing]:
        """Started, with the timing that was agreed on."""
        from etcdlock.agent.kept_guard import KeptGuard

        if self._was_left:
            note("watchdog_waits", level=logging.WARNING, reason="an earlier guard was killed; guests may be left")
        first, timing = await self._begin(waits=self._was_left)
        if first.watchdog.is_busy and not timing.watchdog_seconds:
            await first.close()  # it would go on asking for what another program has
            first, timing = await self._begin(waits=self._was_left)
        return KeptGuard(first, start=self._start, waits=self._was_left, no_watchdog=self._lost), timing

    async def _start(self) -> GuardLink:
        return (await self._begin(waits=True))[0]

    async def _begin(self, *, waits: bool) -> tuple[GuardLink, Timing]:
        from etcdlock.adapters.guardlink import GuardLink

        settings = self._settings
        device = settings.watchdog_device if self._wants_watchdog() else ""
        equipment = equipment_of(settings, watchdog=device, waits=waits, record=self._new_ring())
        link = await GuardLink.start(limits=self._limits, equipment=equipment, unit=settings.guard_path)
        note("guard_started", pid=link.pid, in_its_own_unit=not link.is_child)
        timing = self._timing(link.watchdog)
        self._guards.add(link.pid, watchdog_seconds=timing.watchdog_seconds, watches=bool(device) and not waits)
        return link, timing

    def _wants_watchdog(self) -> bool:
        return self._settings.watchdog != "off" if self._agreed is None else bool(self._agreed.watchdog_seconds)

    def _limits(self, report: WatchdogReport) -> Limits:
        return limits_of(self._timing(report))

    def _lost(self, reason: str) -> None:
        _without(self._settings, f"the watchdog is gone: {reason}", lost=True)

    def _timing(self, report: WatchdogReport) -> Timing:
        """Agreed on with the first guard."""
        if self._agreed is None:
            earlier_seconds = self._guards.earlier_watchdog_seconds
            self._agreed = (
                self._settings.contract.timing.watched(earlier_seconds)
                if self._was_left
                else agreed_timing(self._settings, report, earlier_seconds=earlier_seconds)
            )
        return self._agreed


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
