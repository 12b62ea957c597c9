"""The network between one host of the demo and etcd: a TCP proxy on loopback that can be cut.

Cut in silence, it is a network that loses everything: connections stand or are even made, and nothing passes. Once
healed it passes on what was held back, as TCP would repeat it: late requests do arrive. A hard cut breaks all
connections and refuses new ones.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Final

_CHUNK_BYTES: Final = 1 << 16


class Cut(StrEnum):
    """How a network can fail."""

    SILENT = "silent"
    HARD = "hard"


class Proxy:
    """Passes connections to `port` on to `upstream_port`, both on 127.0.0.1. Make it with `start`."""

    def __init__(self, upstream_port: int, /) -> None:
        self.port = 0
        self._upstream_port = upstream_port
        self._open = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, upstream_port: int, /) -> Proxy:
        """A proxy on a free port, whole."""
        proxy = cls(upstream_port)
        await proxy.heal()
        return proxy

    async def cut(self, how: Cut, /) -> None:
        """From now on nothing passes."""
        self._open.clear()
        if how is Cut.HARD:
            await self.close()

    async def heal(self) -> None:
        """Let everything pass again, on the same port."""
        self._open.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Break all connections and listen no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.ensure_future(self._carry(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            await self._open.wait()
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
            writers.append(upstream_writer)
            await asyncio.gather(self._pump(reader, upstream_writer), self._pump(upstream_reader, writer))
        except OSError:
            return      # one side broke it off; both learn of it below
        finally:
            for each in writers:
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction. The end of it is passed on like everything else: not while the network is cut."""
        while chunk := await reader.read(_CHUNK_BYTES):
            await self._open.wait()
            writer.write(chunk)
            await writer.drain()
        await self._open.wait()
        writer.write_eof()
