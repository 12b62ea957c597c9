"""Knows since when no agent has run, at no cost while one does: the kernel tells when its process ends.

Which clock: the caller's `ports.Clock`.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import NoReturn

from etcdlock.api.client import AgentClient
from etcdlock.errors import EtcdlockError
from etcdlock.ports import Clock

LOOK_EVERY_SECONDS = 1.0


class Lifeline:
    """`keep` must run for `gone_since` to mean anything. `client` should not wait for long."""

    def __init__(self, client: AgentClient, clock: Clock, /) -> None:
        self._client = client
        self._clock = clock
        self.gone_since: float | None = None
        """None while an agent runs, whether it answers or not."""

    async def keep(self) -> NoReturn:
        """Follow one agent after the other."""
        while True:
            pidfd = await self._found()
            if pidfd is not None:
                self.gone_since = None
                await _ended(pidfd)
            if self.gone_since is None:
                self.gone_since = self._clock.now()
            await self._clock.sleep(LOOK_EVERY_SECONDS)

    async def _found(self) -> int | None:
        """A descriptor for the agent's process. It still was that process when it answered once more."""
        pid = await self._pid()
        if pid is None:
            return None
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        try:
            if await self._pid() == pid:
                return pidfd
        except BaseException:
            os.close(pidfd)
            raise
        os.close(pidfd)
        return None

    async def _pid(self) -> int | None:
        with suppress(EtcdlockError):
            return int((await asyncio.to_thread(self._client.agent, with_guests=False))["pid"])
        return None


async def _ended(pidfd: int) -> None:
    """Wait for the process's end, and close."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(pidfd, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
