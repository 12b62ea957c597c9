"""A door with locks in memory behind it, and clients that speak libvirt's words to it over its real socket."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

from etcdlock.errors import HeldElsewhere, NotLocked, NotTheOwner
from etcdlock.identity import DiskIdentity, ResourceName, identify_path
from etcdlock.libvirt.packet import Packet, PacketDecoder
from etcdlock.libvirt.procedure import AcquireResource, Register, ReleaseResource, Request, Restrict
from etcdlock.libvirt.remote_error import RemoteError
from etcdlock.libvirt.server import Door
from etcdlock.libvirt.sockets import listen
from etcdlock.libvirt.wire import Answer, encode_call, read_answer
from etcdlock.model import Blocker, DomainId, Mode, Owner, Resource

PATIENCE_SECONDS = 20.0
LONG_SECONDS = 600.0
"""A bound that no test reaches."""

GUEST_PID = 4_000_000
VM1 = DomainId(UUID(int=1), "vm1")
VM2 = DomainId(UUID(int=2), "vm2")
GUEST = Owner(VM1, GUEST_PID)
OTHER = Owner(VM2, GUEST_PID + 1)

PRESENT, TAKE, GIVE_UP, DEPARTED = "present", "take", "give up", "departed"


@dataclass
class LocksInMemory:
    """Locks of one host, and what was asked of them. A take of a name in `gates` waits until its gate opens."""

    heard: list[tuple[str, Owner, str]] = field(default_factory=list)
    taken: list[Resource] = field(default_factory=list)
    held: defaultdict[tuple[str, str], dict[Owner, Mode]] = field(default_factory=lambda: defaultdict(dict))
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    faults: dict[str, Exception] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def present(self, owner: Owner, /) -> None:
        self._hear(PRESENT, owner)

    def departed(self, owner: Owner, /) -> None:
        self._hear(DEPARTED, owner)

    async def take(self, owner: Owner, resource: Resource, /) -> None:
        resource = called(resource)
        self._hear(TAKE, owner, resource.name)
        await self._pass(resource.name)
        holders = self.held[resource.lockspace, resource.name]
        others = [mode for holder, mode in holders.items() if holder != owner]
        if others and not (resource.mode is Mode.SHARED and Mode.EXCLUSIVE not in others):
            text = f"Lockspace resource '{resource.name}' is locked"
            raise HeldElsewhere(text, blockers=(Blocker(VM2, resource),))
        holders[owner] = resource.mode
        self.taken.append(resource)

    def give_up(self, owner: Owner, resource: Resource, /) -> None:
        resource = called(resource)
        self._hear(GIVE_UP, owner, resource.name)
        if resource.name in self.faults:
            raise self.faults[resource.name]
        holders = self.held[resource.lockspace, resource.name]
        if not holders:
            raise NotLocked(f"{resource} is locked by nobody")
        if owner not in holders:
            raise NotTheOwner(f"{resource} is locked by {next(iter(holders))}")
        del holders[owner]

    async def hears(self, *expected: tuple[str, Owner, str]) -> None:
        """Until all of this, in this order, and nothing else has been asked."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.heard) < len(expected):
                await self._news()
        assert self.heard == list(expected)

    async def until(self, asked: int) -> None:
        """Until so much has been asked."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.heard) < asked:
                await self._news()

    async def _pass(self, name: str) -> None:
        try:
            if name in self.gates:
                await self.gates[name].wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        if name in self.faults:
            raise self.faults[name]

    def _hear(self, what: str, owner: Owner, name: str = "") -> None:
        self.heard.append((what, owner, name))
        self.news.set()

    async def _news(self) -> None:
        self.news.clear()
        await self.news.wait()


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._decoder = PacketDecoder()
        self._packets: list[Packet] = []
        self._serials = count(2**32 - 3)

    async def ask(self, request: Request) -> RemoteError | None:
        """What is answered; None if it was done."""
        serial = next(self._serials) % 2**32
        self.send(encode_call(request, serial=serial))
        answer = await self.answer()
        assert (answer.procedure, answer.serial) == (request.procedure, serial)
        return answer.error

    async def must(self, *requests: Request) -> None:
        """All are done."""
        for request in requests:
            assert await self.ask(request) is None

    def send(self, message: bytes) -> None:
        self.writer.write(message)

    async def answer(self) -> Answer:
        """The next answer."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self._packets:
                received = await self.reader.read(65_536)
                if not received:
                    raise EOFError
                self._packets += [packet for packet in self._decoder.feed(received) if isinstance(packet, Packet)]
        return read_answer(self._packets.pop(0))

    def reads_ahead(self, wanted: bool, /) -> None:
        """Whether what comes is taken off the socket before anybody asks for it."""
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport)
        if wanted:
            transport.resume_reading()
        else:
            transport.pause_reading()

    async def is_hung_up_on(self) -> bool:
        """Whether the other side closes; what it still answers is passed over."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while await self.reader.read(65_536):
                    pass
        except ConnectionResetError:
            return True
        return True

    async def close(self) -> None:
        """Ours is closed on return, whatever has not been sent."""
        self.writer.transport.abort()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return


@dataclass
class House:
    """An open door."""

    door: Door
    locks: LocksInMemory
    path: Path
    clients: list[Client] = field(default_factory=list)

    async def client(self) -> Client:
        """A new connection, of nobody yet."""
        client = Client(*await asyncio.open_unix_connection(self.path))
        self.clients.append(client)
        return client

    async def libvirtd(self, owner: Owner = GUEST) -> Client:
        """A connection of libvirtd's on behalf of a guest."""
        client = await self.client()
        await client.must(register(owner))
        return client


def register(owner: Owner) -> Register:
    return Register(owner.domain.uuid, owner.domain.name, id=1, pid=owner.pid)


def ourselves(domain: DomainId = VM1) -> Owner:
    """A guest whose process is this one, so that its own connection can be made from here."""
    return Owner(domain, os.getpid())


def called(resource: Resource) -> Resource:
    """A disk comes by its path alone: whoever is behind the door names it."""
    if resource.name:
        return resource
    name = by_path(resource.path)
    return replace(resource, lockspace=name.lockspace, name=name.name)


def by_path(path: str) -> ResourceName:
    return identify_path(path, rule=DiskIdentity.PATH)


@asynccontextmanager
async def house(
    folder: Path, locks: LocksInMemory | None = None, *, uid: int | None = None, acquire_seconds: float = LONG_SECONDS
) -> AsyncIterator[House]:
    """A door that is open inside; the clients it has been asked for are closed before it is."""
    locks = locks or LocksInMemory()
    path = folder / "virtlockd-sock"
    door = Door(locks, uid=os.geteuid() if uid is None else uid, acquire_seconds=acquire_seconds)
    await door.open(listen(str(path)))
    here = House(door, locks, path)
    try:
        yield here
    finally:
        for client in here.clients:
            await client.close()
        await door.close()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """To its end, in an event loop of its own."""
    asyncio.run(scenario)


ACQUIRE = AcquireResource("", "/san/vm1")
RELEASE = ReleaseResource("", "/san/vm1")
RESTRICT = Restrict()
