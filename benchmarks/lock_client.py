"""A client of virtlockd's protocol, as quick as asyncio makes it: the same one for every lock server measured."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Self
from uuid import UUID, uuid4

from etcdlock.libvirt.packet import Packet, PacketDecoder
from etcdlock.libvirt.procedure import AcquireResource, Register, ReleaseResource, Request
from etcdlock.libvirt.wire import encode_call, read_answer

READ_BYTES = 65_536


class LockClient:
    """One connection, on behalf of a guest; one call at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = PacketDecoder()
        self._serials = count(1)

    @classmethod
    async def connect(cls, path: str, /, *, pid: int, uuid: UUID | None = None) -> Self:
        """Connected and registered for the guest whose process is `pid`."""
        client = cls(*await asyncio.open_unix_connection(path))
        uuid = uuid or uuid4()
        await client.must(Register(uuid, f"guest-{uuid}", id=1, pid=pid))
        return client

    async def must(self, request: Request, /) -> None:
        """Raises PermissionError with the server's words if it was not done."""
        self._writer.write(encode_call(request, serial=next(self._serials)))
        packet = await self._packet()
        if (error := read_answer(packet).error) is not None:
            raise PermissionError(error.message)

    async def take(self, disk: str, /) -> None:
        await self.must(AcquireResource("", disk))

    async def give_up(self, disk: str, /) -> None:
        await self.must(ReleaseResource("", disk))

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def _packet(self) -> Packet:
        while received := await self._reader.read(READ_BYTES):
            for packet in self._decoder.feed(received):
                if isinstance(packet, Packet):
                    return packet
        raise ConnectionError("the lock server hung up")
