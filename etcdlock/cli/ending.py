"""Whether an agent that is told to end does so while its host has guests.

Either way no lock is dropped: an agent that ends leaves locks, session and guard standing for the next one, and one
that refuses goes on serving.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

from etcdlock.journal import note

if TYPE_CHECKING:
    from etcdlock.agent.host import HostAgent
    from etcdlock.ports import Clock

ENDING = (signal.SIGTERM, signal.SIGINT)
RELOAD = signal.SIGUSR1
"""Sent where virtlockd would be told to start itself anew without losing a lock, as when libvirt is upgraded."""
MEANT_SECONDS = 10.0
"""Who says it twice within this time means it."""


class OnGuests(StrEnum):
    """What to do about guests when told to end."""

    KEEP = "keep"
    """End, and leave their locks to the next agent."""
    REFUSE = "refuse"
    """Go on, unless told twice."""


class Ending:
    """Hears that the agent is to end; calls `end` if it does."""

    def __init__(self, agent: HostAgent, clock: Clock, /, *, on_guests: OnGuests, end: Callable[[], None]) -> None:
        self._agent = agent
        self._clock = clock
        self._on_guests = on_guests
        self._end = end
        self._meant_until: float | None = None

    def tell(self) -> None:
        """SIGTERM, or SIGINT."""
        now = self._clock.now()
        is_meant = self._meant_until is not None and now <= self._meant_until
        guests = self._agent.residents
        if self._on_guests is OnGuests.REFUSE and guests and not is_meant:
            self._meant_until = now + MEANT_SECONDS
            named = ", ".join(str(resident.owner) for resident in guests)
            note("stop_refused", level=logging.WARNING, guests=named, again_within_seconds=MEANT_SECONDS)
            return
        self._end()


def end_when_told(ending: Ending, /) -> None:
    """By signals, in the running loop."""
    import asyncio

    loop = asyncio.get_running_loop()
    for number in ENDING:
        loop.add_signal_handler(number, ending.tell)
    loop.add_signal_handler(RELOAD, _nothing)


def _nothing() -> None:
    """Nothing is kept that would have to be read anew."""
