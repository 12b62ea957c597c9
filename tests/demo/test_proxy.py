"""The network that can be cut: what passes, what does not, and what comes late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest

from etcdlock.demo.proxy import Cut, Proxy

SOON_SECONDS = 10.0
NEVER_SECONDS = 0.3

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Upstream:
    """Sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.heard = b""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(100):
            self.heard += chunk
            writer.write(chunk)
        writer.close()


@asynccontextmanager
async def network() -> AsyncIterator[tuple[Proxy, Upstream]]:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.talk, "127.0.0.1", 0)
    proxy = await Proxy.start(server.sockets[0].getsockname()[1])
    try:
        yield proxy, upstream
    finally:
        await proxy.close()
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def says(connection: Connection, text: bytes) -> bytes:
    connection[1].write(text)
    return await connection[0].readexactly(len(text))


async def hears_nothing(connection: Connection) -> bool:
    """Neither a byte nor an end."""
    try:
        async with asyncio.timeout(NEVER_SECONDS):
            await connection[0].read(1)
    except TimeoutError:
        return True
    return False


def on_a_network(scene: Callable[[Proxy, Upstream], Coroutine[None, None, None]]) -> Callable[[], None]:
    """Make a test of a scene."""

    async def run() -> None:
        async with asyncio.timeout(SOON_SECONDS), network() as (proxy, upstream):
            await scene(proxy, upstream)

    def test() -> None:
        asyncio.run(run())

    return test


@on_a_network
async def test_what_is_sent_passes_both_ways(proxy: Proxy, upstream: Upstream) -> None:
    async with connected(proxy) as connection:
        assert await says(connection, b"hello") == b"hello"


@on_a_network
async def test_cut_in_silence_it_accepts_and_passes_nothing(proxy: Proxy, upstream: Upstream) -> None:
    async with connected(proxy) as before:
        await says(before, b"1")
        await proxy.cut(Cut.SILENT)
        before[1].write(b"2")
        async with connected(proxy) as meanwhile:
            meanwhile[1].write(b"3")
            assert await hears_nothing(before)
            assert await hears_nothing(meanwhile)
            assert upstream.heard == b"1"


@on_a_network
async def test_once_healed_what_was_held_back_arrives_late(proxy: Proxy, upstream: Upstream) -> None:
    async with connected(proxy) as connection:
        await says(connection, b"1")
        await proxy.cut(Cut.SILENT)
        connection[1].write(b"2")
        assert await hears_nothing(connection)
        await proxy.heal()
        assert await connection[0].readexactly(1) == b"2"
        assert upstream.heard == b"12"


@on_a_network
async def test_not_even_the_end_of_a_connection_gets_out_of_a_silent_network(proxy: Proxy, upstream: Upstream) -> None:
    async with connected(proxy) as connection:
        await says(connection, b"1")
        await proxy.cut(Cut.SILENT)
        connection[1].write_eof()
        assert await hears_nothing(connection)
        await proxy.heal()
        assert await connection[0].read(1) == b""


@on_a_network
async def test_a_hard_cut_breaks_connections_and_refuses_others_until_healed(proxy: Proxy, upstream: Upstream) -> None:
    async with connected(proxy) as before:
        await says(before, b"1")
        await proxy.cut(Cut.HARD)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await before[0].readexactly(1)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxy.port)
    await proxy.heal()
    async with connected(proxy) as after:
        assert await says(after, b"again") == b"again"
