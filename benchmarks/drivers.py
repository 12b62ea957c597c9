"""Acquire through each driver of the lock manager, with 1 and 8 disks, against a bare transaction.

In the time is `LockManager.acquire` of a guest whose supervisor waits already: the locks, the guest armed, and the word
that lets it run. Starting the supervisor and naming the disks come before, the guest's end and the release behind; they
are not in it. The bare transaction puts one key with a value of 100 bytes and compares nothing.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from uuid import uuid4

from benchmarks.acquire import BARE, bare
from benchmarks.lock_servers import agent
from benchmarks.measure import Once, Rounds, interleave, ratio, seconds_of
from benchmarks.report import Row, Section
from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.config import load as load_settings
from etcdlock.driver import DomainId, Loaded, LockManager, load
from etcdlock.wiring import open_store

DRIVERS = ("etcd", "agent", "fcntl", "nop")
DISKS = (1, 8)
GUEST = ("sleep", "600")
NO_FILE = Path(os.devnull)


async def section(binary: str, /, *, rounds: int) -> Section:
    with EmbeddedEtcd(binary, durable=True) as etcd, TemporaryDirectory() as folder:
        async with _subjects(etcd.endpoints[0], Path(folder)) as subjects:
            taken = await interleave(subjects, rounds=rounds, passes=5)
    return Section("Acquire through each driver", _rows(taken))


def _rows(taken: Rounds) -> list[Row]:
    names = [_name(driver, disks) for driver in DRIVERS for disks in DISKS]
    return [
        *(Row(name, seconds_of(taken, name).times(1000), "ms") for name in (BARE, *names)),
        *(Row(f"{name}, against the {BARE}", ratio(taken, name, to=BARE), "×") for name in names),
    ]


@asynccontextmanager
async def _subjects(endpoint: str, folder: Path, /) -> AsyncIterator[Mapping[str, Once]]:
    """The agent serves as its driver's host; the driver `etcd` is a host of its own."""
    own = load_settings(flags={"endpoints": (endpoint,), "cluster": "bench", "host_id": "bare"}, environment={})
    with ExitStack() as stack:
        stack.enter_context(agent(endpoint, folder / "agent"))
        loaded = {name: stack.enter_context(_load(name, endpoint, folder)) for name in DRIVERS}
        async with open_store(own) as store:
            yield {
                BARE: bare(store),
                **{
                    _name(name, disks): _acquire(driver, disks=disks)
                    for name, driver in loaded.items()
                    for disks in DISKS
                },
            }


def _load(driver: str, endpoint: str, folder: Path, /) -> Loaded:
    settings = {
        "endpoints": (endpoint,),
        "host_id": "bench" if driver == "agent" else driver,
        "disk_identity": "path",
        "allow_unsafe_etcd": True,
        "run_folder": str(folder / ("agent" if driver == "agent" else driver)),
        "fcntl_folder": str(folder / "locks"),
    }
    return load(driver, config=NO_FILE, settings=settings)


def _acquire(driver: Loaded, /, *, disks: int) -> Once:
    """Of a domain that nobody has, for a process of its own; given back when that has ended."""

    async def once() -> float:
        return await asyncio.to_thread(_acquired, driver, disks)

    return once


def _acquired(driver: Loaded, disks: int, /) -> float:
    domain = DomainId(uuid4(), "vm1")
    manager = LockManager(driver, domain)
    with subprocess.Popen((*manager.supervisor_command(), *GUEST)) as guest:
        try:
            for number in range(disks):
                manager.register(f"/san/{domain.uuid}-{number}")
            manager.guest_pid()
            begun = perf_counter()
            manager.acquire()
            taken = perf_counter() - begun
        finally:
            guest.kill()
    manager.release()
    return taken


def _name(driver: str, disks: int) -> str:
    return f"{driver}, {disks} disk{'s' * (disks > 1)}"
