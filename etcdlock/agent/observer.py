"""Watches sessions that others depend on and writes the obituary of one that has been silent for the whole hold-off.

Guaranteed: the hold-off begins when the *answer* to a transaction that found the key missing has arrived, on our own
clock; what a plain read or a watch says only makes us ask. The obituary itself compares again that the key is absent.

Not guaranteed: speed. A watch that misses an event costs one polling interval.
"""

from __future__ import annotations

import asyncio
import logging

from etcdlock.agent.context import Context
from etcdlock.agent.proving import declare, owners_of_locks
from etcdlock.errors import EtcdlockError
from etcdlock.journal import note
from etcdlock.model import Proof, SessionRef
from etcdlock.ports import KeyRange
from etcdlock.transitions import confirm_missing

SHORTEST_PAUSE_SECONDS = 0.01


class Observer:
    """What this program has itself seen of other sessions."""

    def __init__(self, context: Context, /) -> None:
        self._context = context
        self._followed: frozenset[SessionRef] = frozenset()
        self._missing_since: dict[SessionRef, float] = {}
        self._woken = asyncio.Event()

    def follow(self, refs: frozenset[SessionRef], /) -> None:
        """Watch these sessions from now on, and no others; what was seen of them before still counts."""
        self._followed = refs
        self._missing_since = {ref: at for ref, at in self._missing_since.items() if ref in refs}
        self.wake()

    def follow_too(self, refs: frozenset[SessionRef], /) -> None:
        """Watch these sessions as well, each until its end is proven."""
        self.follow(self._followed | refs)

    def wake(self) -> None:
        """Look now: something about a session may have changed."""
        self._woken.set()

    def takeover_in(self, ref: SessionRef, /) -> float | None:
        """Seconds until silence is proof, None while the session has not been seen missing."""
        since = self._missing_since.get(ref)
        if since is None:
            return None
        return max(0.0, since + self._context.timing.hold_off_seconds - self._context.clock.now())

    async def keep(self) -> None:
        """Look and write, for ever."""
        while True:
            self._woken.clear()
            for ref in sorted(self._followed):
                try:
                    await self._look(ref)
                except EtcdlockError as error:
                    note("observer_failed", level=logging.WARNING, session=ref, error=error)
            await self._pause()

    async def _pause(self) -> None:
        """Until the next look is due, or somebody wakes us. What was due and failed has a full interval to wait."""
        waits = [self.takeover_in(ref) for ref in self._missing_since]
        seconds = min(wait for wait in (*waits, self._context.timing.renew_every_seconds) if wait)
        sleeping = asyncio.ensure_future(self._context.clock.sleep(max(seconds, SHORTEST_PAUSE_SECONDS)))
        woken = asyncio.ensure_future(self._woken.wait())
        try:
            await asyncio.wait((sleeping, woken), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            woken.cancel()

    async def _look(self, ref: SessionRef, /) -> None:
        if ref not in self._missing_since:
            if (await self._context.store.read(KeyRange(self._context.keys.session(ref)))).found:
                return
            result = await self._context.store.txn(confirm_missing(self._context.keys, ref))
            if not result.succeeded:
                return
            self._missing_since[ref] = self._context.clock.now()
            note("session_missing", session=ref, hold_off_seconds=self._context.timing.hold_off_seconds)
        if self.takeover_in(ref) == 0.0 and self._context.contract.takeover_needs == "silence":
            await self._declare(ref)

    async def _declare(self, ref: SessionRef, /) -> None:
        """Only what a lock still names: its host may have joined anew and carried all of them over."""
        hold_off = self._context.timing.hold_off_seconds
        if ref in await owners_of_locks(self._context):
            await declare(self._context, ref, proof=Proof.SILENCE, reason=f"key missing for {hold_off:g} s")
        self._followed -= {ref}
        self._missing_since.pop(ref, None)
