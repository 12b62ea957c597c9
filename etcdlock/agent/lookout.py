"""Sees sessions end that locks still name, and has their silence counted from then on, whether anybody asks or not.

Without it the hold-off would begin when somebody first asks for a lock of the host that has ended: a management stack
that notices a minute later would wait once more. No lock can come to name a session after its key is gone, so what no
lock names then is of no interest later.

Guaranteed: nothing; what is seen here only makes the observer look, which sees for itself and counts on its own clock.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NoReturn

from etcdlock.agent.context import Context
from etcdlock.agent.observer import Observer
from etcdlock.agent.proving import owners_of_locks
from etcdlock.agent.session_ends import wake_at_ends
from etcdlock.agent.waiting import first_of
from etcdlock.errors import EtcdlockError
from etcdlock.journal import note
from etcdlock.model import SessionRef
from etcdlock.survey import take_survey

LOOK_EVERY_SECONDS = 10.0
"""If no watch tells of it."""


class Lookout:
    """Of one host's agent. `keep` never ends."""

    def __init__(self, context: Context, /, *, observer: Observer) -> None:
        self._context = context
        self._observer = observer
        self._living: frozenset[SessionRef] | None = None
        self._woken = asyncio.Event()

    async def keep(self) -> NoReturn:
        """Look, and at every end of a session again."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(wake_at_ends(self._context, self._woken, pause_seconds=LOOK_EVERY_SECONDS))
            while True:
                self._woken.clear()
                try:
                    await self._look()
                except EtcdlockError as error:
                    note("lookout_failed", level=logging.INFO, error=error)
                await first_of(self._context.clock.sleep(LOOK_EVERY_SECONDS), self._woken.wait())

    async def _look(self) -> None:
        """The first time, who had ended before we began counts as well."""
        context = self._context
        found = await context.store.read(context.keys.sessions())
        living = frozenset(view.ref for view in take_survey(found, keys=context.keys).sessions)
        if self._living is None or not self._living <= living:
            self._observer.follow_too(await owners_of_locks(context) - living)
        self._living = living
