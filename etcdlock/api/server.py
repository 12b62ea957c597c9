"""Serves the API on a Unix socket in the running event loop, beside whatever else that loop does.

Guaranteed: the server handles no signals and ends only when it is closed. Then it serves nobody new, and what has been
asked is answered first, within its bound. Locks are not held by connections: they stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import uvicorn

from etcdlock.api.bounds import Bounds
from etcdlock.api.connection import Connection
from etcdlock.api.peer import Rights, Rules
from etcdlock.errors import InvalidSetting, reason_of
from etcdlock.journal import note

if TYPE_CHECKING:
    from starlette.types import ASGIApp

BACKLOG = 1024
ACCEPTED_AT_ONCE = 8
"""So many, and then whatever else the event loop has to do: it also proves the session, while thousands connect."""
_MODE = 0o660


class Listening(Protocol):
    """A socket that listens at `path`; `inode` is None if others made it and look after its mode."""

    @property
    def socket(self) -> socket.socket:
        """The socket."""
        ...

    @property
    def path(self) -> str:
        """Where."""
        ...

    @property
    def inode(self) -> int | None:
        """Its file's."""
        ...

    def remove(self) -> None:
        """Remove the file."""
        ...


class ApiServer:
    """One application on one socket."""

    def __init__(self, app: ASGIApp, /, *, rules: Rules, answer_seconds: float, bounds: Bounds | None = None) -> None:
        bounds = bounds or Bounds()
        self._connections: dict[Connection, Rights] = {}
        self._rules = rules
        self._listener: Listening | None = None
        self._serving: asyncio.Task[None] | None = None
        self._server = _Server(
            uvicorn.Config(
                app,
                http=partial(Connection, rules=rules, bounds=bounds, among=self._connections),  # type: ignore[arg-type]
                ws="none",
                loop="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                backlog=ACCEPTED_AT_ONCE,
                timeout_keep_alive=max(1, int(bounds.idle_seconds)),
                timeout_graceful_shutdown=int(answer_seconds) + 1,
                h11_max_incomplete_event_size=bounds.largest_head,
            )
        )

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def open(self, listener: Listening, /) -> None:
        """Serve; `listener` is ours from now on."""
        self._listener = listener
        if listener.inode is not None:
            _let_in(listener.path, group=self._rules.group)
        self._serving = asyncio.ensure_future(self._server.serve(sockets=[listener.socket]))
        up = asyncio.ensure_future(self._server.up.wait())
        await asyncio.wait((self._serving, up), return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if self._serving.done():
            self._serving.result()
        listener.socket.listen(BACKLOG)  # how many may wait is another question, which asyncio does not ask
        note("api_opened", path=listener.path, inherited=listener.inode is None)

    async def close(self) -> None:
        """Serve nobody new, answer what has been asked, and let go."""
        if self._serving is None or self._listener is None:
            return
        self._listener.remove()
        self._server.should_exit = True
        await self._serving
        self._serving = None
        note("api_closed", path=self._listener.path)


class _Server(uvicorn.Server):
    """A server that is one of several things in its process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to the program."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


def _let_in(path: str, /, *, group: int | None) -> None:
    """The group first: nobody else is let in meanwhile. Raises `InvalidSetting` if it may not have it."""
    if group is not None:
        try:
            os.chown(path, -1, group)
        except PermissionError as error:
            raise InvalidSetting(
                f"api_group: {path} cannot be given to group {group}: {reason_of(error)}",
                hint="the agent's user must be in that group, or have the capability CAP_CHOWN",
            ) from error
    Path(path).chmod(_MODE)
