"""Wakes whoever looks after other hosts' sessions when one of them ends.

Guaranteed: nothing. A watch may miss what it pleases; who is woken looks for itself, and looks now and then unasked.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NoReturn

from etcdlock.agent.context import Context
from etcdlock.errors import EtcdlockError
from etcdlock.journal import note


async def wake_at_ends(context: Context, woken: asyncio.Event, /, *, pause_seconds: float) -> NoReturn:
    """For ever; after a watch that failed or ended, once more after a pause."""
    while True:
        try:
            seen = (await context.store.read(context.keys.sessions())).revision
            async for event in context.store.watch((context.keys.sessions(),), after_revision=seen):
                if event.value is None:
                    woken.set()
        except EtcdlockError as error:
            note("watch_failed", level=logging.INFO, error=error)
        await context.clock.sleep(pause_seconds)
