"""The fence agents of the settings as power switches, and the agent's part that uses them by itself."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from etcdlock.errors import InvalidSetting

if TYPE_CHECKING:
    from etcdlock.agent.context import Context
    from etcdlock.agent.member import Member
    from etcdlock.config import Settings
    from etcdlock.ports import PowerSwitch

CALLS_PER_TRY = 2
"""`off` and `status`."""
CLAIM_SPARE_SECONDS = 30.0


def switches_of(settings: Settings, host: str, /) -> tuple[PowerSwitch, ...]:
    """What switches a host off. Raises `InvalidSetting` where nothing is set for it."""
    from etcdlock.adapters.fence_agent import FenceAgent

    if host not in settings.fence:
        known = ", ".join(sorted(settings.fence)) or "none"
        raise InvalidSetting(
            f"there is no table [fence.{host}] in the settings, which would say how it is switched off; "
            f"hosts that have one: {known}",
            hint="docs/CONFIGURATION.md shows one; if the host is off already: 'etcdlock break'",
        )
    return tuple(
        FenceAgent(device.agent, device.spelled(), device.secrets, settings.fence_timeout_seconds)
        for device in settings.fence[host]
    )


def fencer(settings: Settings, context: Context, /) -> Callable[[Member], Coroutine[Any, Any, None]] | None:
    """What the agent begins once it has joined, to fence by itself; None where it is not to."""
    from etcdlock.agent.fencer import Fencer
    from etcdlock.agent.fencing import TRIES

    if settings.fencing != "automatic":
        return None
    return lambda member: Fencer(
        context,
        member=member,
        switches={host: switches_of(settings, host) for host in settings.fence},
        after_seconds=settings.fence_after_seconds,
        claim_seconds=TRIES * CALLS_PER_TRY * settings.fence_timeout_seconds + CLAIM_SPARE_SECONDS,
        answer_seconds=settings.answer_seconds,
    ).keep()
