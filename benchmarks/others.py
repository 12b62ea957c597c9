"""The same etcd through what else there is: etcdctl lock, etcd3's Lock, and tooz with its etcd3gw driver.

Each takes one free lock of a name of its own; its release is not in the time. etcdctl is a process of its own, so its
start is in its time; `etcdctl get` of one key shows how much of it that is. tooz runs in a Python of its own, beside
this one.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import perf_counter
from uuid import uuid4

from benchmarks.acquire import acquire
from benchmarks.host import Host
from benchmarks.measure import Once, Rounds, ratio, seconds_of
from benchmarks.report import Row, Section
from etcdlock.adapters import stubs

OURS = "etcdlock: a domain with 1 disk"
ETCD3, TOOZ = "etcd3 Lock", "tooz with etcd3gw"
ETCDCTL, ETCDCTL_GET = "etcdctl lock", "etcdctl get: the start of the process and one read"
WORKER = Path(__file__).with_name("tooz_worker.py")


@asynccontextmanager
async def subjects(
    host: Host, endpoint: str, /, *, tooz_python: str
) -> AsyncIterator[tuple[dict[str, Once], list[str]]]:
    """What there is here to be measured, and what is missing."""
    async with AsyncExitStack() as stack:
        found: dict[str, Once] = {OURS: acquire(host, disks=1), ETCD3: _etcd3_lock(endpoint, stack=stack)}
        missing = []
        if etcdctl := shutil.which("etcdctl"):
            found |= {ETCDCTL: _etcdctl_lock(etcdctl, endpoint), ETCDCTL_GET: _etcdctl_get(etcdctl, endpoint)}
        else:
            missing.append("etcdctl lock: etcdctl is not on PATH; `make system-deps` installs it.")
        worker = await stack.enter_async_context(_worker(tooz_python, endpoint))
        if worker is not None:
            found[TOOZ] = worker
        else:
            missing.append(f"tooz with etcd3gw: {tooz_python} does not have them; pip install tooz etcd3gw.")
        yield found, missing


def section(rounds: Rounds, missing: list[str], /) -> Section:
    taken = [Row(name, seconds_of(rounds, name).times(1000), "ms") for name in rounds]
    rivals = [name for name in rounds if name not in (OURS, ETCDCTL_GET)]
    ratios = [Row(f"{name} against etcdlock", ratio(rounds, name, to=OURS), "×", 1.0, at_least=True) for name in rivals]
    return Section("One free lock, against other clients", [*taken, *ratios], missing)


def _etcd3_lock(endpoint: str, *, stack: AsyncExitStack) -> Once:
    stubs.load()  # without it etcd3 cannot be imported beside this protobuf
    import etcd3

    host, _, port = endpoint.rpartition(":")
    client = etcd3.client(host=host, port=int(port), timeout=10)
    stack.callback(client.close)

    async def once() -> float:
        lock = client.lock(str(uuid4()), ttl=60)
        begun = perf_counter()
        lock.acquire()
        taken = perf_counter() - begun
        lock.release()
        lock.lease.revoke()
        return taken

    return once


def _etcdctl_lock(etcdctl: str, endpoint: str) -> Once:
    async def once() -> float:
        begun = perf_counter()
        process = await asyncio.create_subprocess_exec(
            etcdctl, f"--endpoints={endpoint}", "lock", f"bench-{uuid4()}", stdout=asyncio.subprocess.PIPE
        )
        if process.stdout is None or not await process.stdout.readline():
            raise RuntimeError("etcdctl lock ended without a lock")
        taken = perf_counter() - begun
        process.send_signal(signal.SIGINT)
        await process.wait()
        return taken

    return once


def _etcdctl_get(etcdctl: str, endpoint: str) -> Once:
    async def once() -> float:
        begun = perf_counter()
        process = await asyncio.create_subprocess_exec(
            etcdctl, f"--endpoints={endpoint}", "get", "nothing", stdout=asyncio.subprocess.DEVNULL
        )
        if await process.wait():
            raise RuntimeError("etcdctl get failed")
        return perf_counter() - begun

    return once


@asynccontextmanager
async def _worker(python: str, endpoint: str) -> AsyncIterator[Once | None]:
    """tooz in its own process, which times itself; None if it is not installed there."""
    process = await asyncio.create_subprocess_exec(
        python, str(WORKER), endpoint, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    to, answers = process.stdin, process.stdout
    if to is None or answers is None:
        raise RuntimeError("a process without the pipes that were asked for")

    async def once() -> float:
        to.write(f"{uuid4()}\n".encode())
        return float(await answers.readline())

    try:
        yield once if await answers.readline() == b"ready\n" else None
    finally:
        to.close()
        await process.wait()


def default_python() -> str:
    """The extra `bench` puts tooz beside us."""
    return sys.executable
