"""Sees to it that what a caller has begun goes on without the caller.

Guaranteed: a connection that ends, and a server that does, interrupt nothing: what has been sent to etcd is followed to
its end, and what was taken stays the guest's. Every call is answered within `answer_seconds`.

Which clock: the event loop's, and only to stop waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from etcdlock.errors import OutcomeUnknown
from etcdlock.journal import note

T = TypeVar("T")


class Desk:
    """Does what callers ask."""

    def __init__(self, *, answer_seconds: float) -> None:
        self._answer_seconds = answer_seconds
        self._under_way: set[asyncio.Task[Any]] = set()

    async def see_to(self, work: Coroutine[Any, Any, T], /) -> T:
        """Its result. Raises what it raises, and `OutcomeUnknown` if it is not done in time: then it goes on."""
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait((task,), timeout=self._answer_seconds)
        if not task.done():
            raise OutcomeUnknown(
                f"not done within {self._answer_seconds:g} s; it goes on", hint="ask again: what was done is a success"
            )
        return task.result()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:  # also for whoever does not wait any more
            note("request_failed", level=logging.INFO, error=error)
