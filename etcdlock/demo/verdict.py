"""How the demo says that something was not so; every wait has a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from etcdlock.errors import EtcdlockError


class NotSo(EtcdlockError):
    """What the demo was to show is not what happened."""


def require(holds: bool, otherwise: str, /) -> None:
    """Raise `NotSo`, saying what was seen instead, unless it holds."""
    if not holds:
        raise NotSo(otherwise)


@asynccontextmanager
async def within(seconds: float, expected: str, /) -> AsyncIterator[None]:
    """What is awaited inside must have come in this time; else `NotSo`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise NotSo(f"{expected}: that did not happen within {seconds:.1f} s") from None
