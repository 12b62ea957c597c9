"""A pause that ends early when something has happened. Which clock: `ports.Clock`."""

from __future__ import annotations

import asyncio

from etcdlock.ports import Clock


async def pause(clock: Clock, seconds: float, /, *, unless: asyncio.Event) -> None:
    """Come back after so long, or as soon as the event is set."""
    sleeping = asyncio.ensure_future(clock.sleep(seconds))
    happening = asyncio.ensure_future(unless.wait())
    try:
        await asyncio.wait((sleeping, happening), return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleeping.cancel()
        happening.cancel()
