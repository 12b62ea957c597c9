"""The virtlockd door: an unmodified libvirt takes its locks here, from whoever satisfies `Locks`.

A door serves one listening socket (`sockets.listen`) in the running event loop. How bytes come and go is in
`connection`, who may ask for what in `caller`, and how it is done in `desk`.

Guaranteed when it closes: whatever has been read is done and answered first, an ACQUIRE within its bound. A call that
has not been read is not done, and its client sees the connection end. Guests keep their locks: that we end means
nothing for them. After a restart they have no connection to us; they are known by their processes.
"""

from __future__ import annotations

import asyncio
from functools import partial

from etcdlock.journal import note
from etcdlock.libvirt.connection import READ_BYTES, Connection
from etcdlock.libvirt.desk import Desk
from etcdlock.libvirt.locks import Locks
from etcdlock.libvirt.sockets import BACKLOG, Listener

__all__ = ["Door", "Locks"]

ACCEPTED_AT_ONCE = 8
"""So many, and then whatever else the event loop has to do: it also proves the session, while thousands connect."""
READ_WITHIN_SECONDS = 1.0
"""How long a client may take to read its last answer."""


class Door:
    """Serves libvirt until it is closed. Only processes of the user `uid` get in: root's for a system's libvirt."""

    def __init__(self, locks: Locks, /, *, uid: int, acquire_seconds: float) -> None:
        self._desk = Desk(locks, acquire_seconds=acquire_seconds)
        self._connections: set[Connection] = set()
        self._connect = partial(
            Connection, self._desk, uid=uid, buffer=bytearray(READ_BYTES), among=self._connections
        )
        self._listener: Listener | None = None
        self._server: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """How many clients are connected; most of them are guests."""
        return len(self._connections)

    async def open(self, listener: Listener, /) -> None:
        """Serve; `listener` is the door's from now on."""
        loop = asyncio.get_running_loop()
        self._listener = listener
        self._server = await loop.create_server(self._connect, sock=listener.socket, backlog=ACCEPTED_AT_ONCE)
        listener.socket.listen(BACKLOG)  # how many may wait is another question, which asyncio does not ask
        note("lock_door_opened", path=listener.path, inherited=listener.inode is None)

    async def close(self) -> None:
        """Serve nobody new, answer what has been asked, and let go."""
        if self._server is None or self._listener is None:
            return
        self._listener.remove()
        self._server.close()
        self._desk.close()
        for connection in tuple(self._connections):
            await connection.quiet()
        while self._connections:
            leaving = [connection.leave(within_seconds=READ_WITHIN_SECONDS) for connection in self._connections]
            await asyncio.gather(*leaving)
        self._server = None
        note("lock_door_closed", path=self._listener.path)
