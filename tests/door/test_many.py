"""Thousands of guests keep a connection open; that must cost next to nothing, and leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import tracemalloc
from pathlib import Path

from etcdlock.libvirt.sockets import allow_descriptors
from etcdlock.libvirt.wire import encode_call
from tests.door.conversation import (
    ACQUIRE,
    DEPARTED,
    PATIENCE_SECONDS,
    PRESENT,
    RESTRICT,
    House,
    house,
    ourselves,
    register,
    run,
)

GUESTS = 1000
MOST_BYTES_A_GUEST = 6_000


def test_an_idle_guest_costs_a_descriptor_and_a_few_kilobytes_and_leaves_nothing(tmp_path: Path) -> None:
    assert allow_descriptors(3 * GUESTS) >= 3 * GUESTS

    async def scenario() -> None:
        async with house(tmp_path) as here:
            await come_and_go(here, 1)
            gc.collect()  # what earlier tests have left to be collected may hold descriptors
            descriptors, tasks = open_descriptors(), len(asyncio.all_tasks())
            tracemalloc.start()
            clients = await come(here, GUESTS)
            gc.collect()
            cost = tracemalloc.get_traced_memory()[0] / GUESTS
            tracemalloc.stop()
            assert cost < MOST_BYTES_A_GUEST
            assert len(asyncio.all_tasks()) == tasks
            assert open_descriptors() == descriptors + 2 * GUESTS
            await (await here.libvirtd()).must(ACQUIRE)
            await here.clients.pop().close()
            await go(here, clients)
            assert open_descriptors() == descriptors

    run(scenario())


async def come_and_go(here: House, guests: int) -> None:
    await go(here, await come(here, guests))


async def come(here: House, guests: int) -> list[socket.socket]:
    """So many guests' own connections, as plain sockets; the locks have heard of all."""
    greeting = encode_call(register(ourselves()), serial=0) + encode_call(RESTRICT, serial=1)
    here.locks.heard.clear()
    clients = []
    for _ in range(guests):
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, str(here.path))
        client.send(greeting)
        clients.append(client)
    await here.locks.hears(*[(PRESENT, ourselves(), "")] * guests)
    return clients


async def go(here: House, clients: list[socket.socket]) -> None:
    """All of them end, and the locks have heard of that too."""
    here.locks.heard.clear()
    for client in clients:
        client.close()
    await here.locks.hears(*[(DEPARTED, ourselves(), "")] * len(clients))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while here.door.connections:
            await asyncio.sleep(0)
    await asyncio.sleep(0)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - it must not open another
