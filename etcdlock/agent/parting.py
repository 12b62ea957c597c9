"""Waits for the end of a guest for as long as it takes to be told of it.

Guaranteed: it comes back only when the guest has said that it is gone. Where the kernel cannot tell for the moment, for
want of descriptors or memory, the guest counts as alive, and what it holds as held.

Which clock: `ports.Clock`, and only to ask again.
"""

from __future__ import annotations

import logging

from etcdlock.journal import note
from etcdlock.ports import Clock, ExitStatus, Guest

AGAIN_SECONDS = 1.0


async def until_gone(guest: Guest, clock: Clock, /) -> ExitStatus:
    """How it ended."""
    while True:
        try:
            return await guest.gone()
        except (OSError, MemoryError) as error:
            note("end_not_told", level=logging.ERROR, pid=guest.pid, error=error)
        await clock.sleep(AGAIN_SECONDS)
