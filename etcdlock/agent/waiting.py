"""Waits until something has changed that may let an acquire succeed; on watches, with a slow look as the safety net.

That a watch says nothing never means that nothing happened: after `RECHECK_SECONDS` the acquire is tried again anyway.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from etcdlock.agent.context import Context
from etcdlock.agent.observer import Observer
from etcdlock.errors import EtcdlockError, HeldElsewhere, WatchCompacted
from etcdlock.journal import note
from etcdlock.model import Blocker, Resource
from etcdlock.ports import KeyRange

RECHECK_SECONDS = 10.0


async def wait_for_change(
    context: Context, refusal: HeldElsewhere, /, *, resources: tuple[Resource, ...], observer: Observer, until: float
) -> None:
    """Come back when a blocker went or changed, a proof of its end was written, or it is time to look again."""
    observer.follow(frozenset(blocker.owner for blocker in refusal.blockers if blocker.owner is not None))
    limit = min(until, context.clock.now() + RECHECK_SECONDS) - context.clock.now()
    ranges = _ranges(context, refusal.blockers, resources)
    await first_of(
        _change(context, ranges, observer, after_revision=refusal.revision), context.clock.sleep(max(limit, 0.0))
    )


async def until_changed(context: Context, key: str, /, *, after: int, until: float) -> None:
    """Come back when a key has changed after that revision, or it is time to look again."""
    limit = min(until, context.clock.now() + RECHECK_SECONDS) - context.clock.now()
    await first_of(
        _change(context, [KeyRange(key)], None, after_revision=after), context.clock.sleep(max(limit, 0.0))
    )


def _ranges(context: Context, blockers: tuple[Blocker, ...], resources: tuple[Resource, ...], /) -> list[KeyRange]:
    keys = context.keys
    owners = {blocker.owner for blocker in blockers if blocker.owner is not None}
    return [
        *(KeyRange(keys.domain(uuid)) for uuid in sorted({blocker.domain.uuid for blocker in blockers})),
        *(keys.rivals(resource) for resource in resources),
        *(KeyRange(key) for owner in sorted(owners) for key in (keys.session(owner), keys.obituary(owner))),
    ]


async def _change(
    context: Context, ranges: list[KeyRange], observer: Observer | None, /, *, after_revision: int
) -> None:
    """Until a lock or a proof changes. A session's own key makes the observer look, and by itself ends nothing."""
    sessions = context.keys.sessions().key
    try:
        async for event in context.store.watch(ranges, after_revision=after_revision):
            if not event.key.startswith(sessions):
                return
            if event.value is None and observer is not None:
                observer.wake()
    except WatchCompacted:
        return
    except EtcdlockError as error:
        note("watch_failed", level=logging.WARNING, error=error)
        await context.clock.sleep(RECHECK_SECONDS)


async def first_of(*parts: Coroutine[Any, Any, object]) -> None:
    """Come back when one of them has ended; the others are not gone on with."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
