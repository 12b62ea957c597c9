"""Lock calls a second over virtlockd's protocol: etcdlock's agent, stock virtlockd, and bare transactions of etcd.

Each connection speaks for a guest of its own, and takes and gives up disks of its own, without a pause: what libvirt
does when disks come and go. The same client, of one process, asks all of them. The agent tells etcd of each call, in a
transaction that waits for etcd's disk. virtlockd sets a lock on a local file, which no other host ever sees: it shows
what the protocol and the client cost, and is nothing that the agent could equal.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from uuid import uuid4

from benchmarks.lock_client import LockClient
from benchmarks.lock_servers import agent, missing_for_virtlockd, virtlockd
from benchmarks.measure import Once, Rounds, Spread, interleave, ratio
from benchmarks.report import Row, Section
from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.ports import Put, Store, Txn

CONNECTIONS = (1, 16, 64)
PAIRS = {1: 60, 16: 12, 64: 6}
"""For each number of connections, how often each of them takes and gives up a disk in a round."""
QUICKER = 10
"""So many times as often with virtlockd, or there would be nothing to be seen on the clock."""
DISKS_EACH = 4
AGENT, VIRTLOCKD, BARE = "etcdlock's agent", "stock virtlockd, on local files", "bare transactions"


async def section(endpoint: str, /, *, rounds: int) -> Section:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        guests = stack.enter_context(_guests(max(CONNECTIONS)))
        servers = {AGENT: stack.enter_context(agent(endpoint, folder / "agent")).path}
        lacks = missing_for_virtlockd()
        if not lacks:
            servers[VIRTLOCKD] = stack.enter_context(virtlockd(folder))
        store = EtcdStore(EtcdOptions((endpoint,)))
        stack.push_async_callback(store.close)
        subjects: dict[str, Once] = {}
        for connections in CONNECTIONS:
            subjects[_name(BARE, connections)] = _transactions(store, connections)
            for name, path in servers.items():
                clients = await stack.enter_async_context(_clients(path, guests[:connections]))
                pairs = PAIRS[connections] * (QUICKER if name == VIRTLOCKD else 1)
                subjects[_name(name, connections)] = _calls(clients, folder, pairs=pairs)
        taken = await interleave(subjects, rounds=rounds, passes=1)
    return _section(taken, [f"{VIRTLOCKD}: {lacks}."] if lacks else [])


def _section(taken: Rounds, missing: Sequence[str]) -> Section:
    rates = [Row(name, Spread.of([1 / seconds for seconds in taken[name]]), "/s") for name in taken]
    ratios = [
        Row(
            f"{_name(AGENT, connections)}, against as many bare transactions",
            ratio(taken, _name(BARE, connections), to=_name(AGENT, connections)),
            "×",
        )
        for connections in CONNECTIONS
    ]
    return Section("Lock calls over virtlockd's protocol, a second", [*rates, *ratios], missing)


def _calls(clients: Sequence[LockClient], folder: Path, *, pairs: int) -> Once:
    """The seconds that a call takes of them all."""
    work = [(client, _disks(folder)) for client in clients]

    async def once() -> float:
        begun = perf_counter()
        await asyncio.gather(*(_take_and_give_up(client, disks, pairs=pairs) for client, disks in work))
        return (perf_counter() - begun) / (2 * pairs * len(clients))

    return once


async def _take_and_give_up(client: LockClient, disks: Sequence[str], *, pairs: int) -> None:
    for disk in islice(cycle(disks), pairs):
        await client.take(disk)
        await client.give_up(disk)


def _transactions(store: Store, connections: int) -> Once:
    """As many at once as connections, and as many in all as calls of the agent."""
    count = 2 * PAIRS[connections]

    async def several() -> None:
        for _ in range(count):
            await store.txn(Txn((), (Put(f"/bench/{uuid4()}", b"x" * 100),)))

    async def once() -> float:
        begun = perf_counter()
        await asyncio.gather(*(several() for _ in range(connections)))
        return (perf_counter() - begun) / (count * connections)

    return once


@asynccontextmanager
async def _clients(path: str, pids: Sequence[int]) -> AsyncIterator[list[LockClient]]:
    clients = [await LockClient.connect(path, pid=pid) for pid in pids]
    try:
        yield clients
    finally:
        for client in clients:
            await client.close()


@contextmanager
def _guests(count: int) -> Iterator[list[int]]:
    """Processes that do nothing and have no disk open."""
    processes = [subprocess.Popen(["sleep", "3600"]) for _ in range(count)]
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _disks(folder: Path) -> list[str]:
    """Files, since virtlockd locks nothing that is not there."""
    paths = [folder / f"{uuid4()}.img" for _ in range(DISKS_EACH)]
    for path in paths:
        path.touch()
    return [str(path) for path in paths]


def _name(what: str, connections: int) -> str:
    return f"{what}, {connections} connection{'s' * (connections > 1)}"
