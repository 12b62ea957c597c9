"""Starts the guard of a guest of our own, and says what any guard is told of its host's timing."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etcdlock.adapters.guardlink import GuardLink
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
        equipment = equipment_of(settings, parent=os.getpid())
        link = await GuardLink.start(limits=lambda _: limits_of(timing), equipment=equipment)
        started(link.pid)
        return link

    return KeptGuard(await start(), start=start)


def limits_of(timing: Timing, /) -> Limits:
    """What the guard is told of a host's timing."""
    from etcdlock.guard.rules import Limits

    return Limits(
        stop_after_seconds=timing.stop_after_seconds,
        act_seconds=timing.act_seconds,
        kill_seconds=timing.kill_seconds + timing.guard_lag_seconds,
        budget_seconds=timing.budget_seconds,
        feed_every_seconds=timing.renew_every_seconds,
        watchdog_seconds=timing.watchdog_seconds,
    )


def equipment_of(
    settings: Settings, /, *, watchdog: str = "", waits: bool = False, parent: int = 0, record: str = ""
) -> Equipment:
    """What the guard is given at its start."""
    from etcdlock.guard.wire import Equipment

    command = (settings.on_session_lost_command,) if settings.on_session_lost_command else ()
    return Equipment(watchdog, settings.contract.timing.suitable_watchdog_seconds, command, parent, record, waits)
