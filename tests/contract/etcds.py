"""Small things that the tests on a real etcd share."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import grpc
import grpc.aio

from etcdlock.adapters import stubs
from etcdlock.adapters.embedded import etcd_of_distro, find_etcd
from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.ports import Get, KeyRange, Put, Txn

Result = TypeVar("Result")


def binaries() -> list[str]:
    """Every different etcd there is on this machine."""
    return sorted({find_etcd(), etcd_of_distro() or find_etcd()})


def put(key: str, value: bytes = b"x") -> Txn:
    return Txn(compare=(), success=(Put(key, value),))


def get(key: str) -> Txn:
    return Txn(compare=(), success=(Get(KeyRange(key)),))


@asynccontextmanager
async def opened(options: EtcdOptions) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(options)
    try:
        yield store
    finally:
        await store.close()


def with_store(options: EtcdOptions, use: Callable[[EtcdStore], Awaitable[Result]]) -> Result:
    """Run `use` on a store of its own, within 30 s."""

    async def run() -> Result:
        async with asyncio.timeout(30), opened(options) as store:
            return await use(store)

    return asyncio.run(run())


@contextmanager
def silent_endpoint() -> Iterator[str]:
    """An endpoint that lets clients connect and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def refusing_endpoint() -> str:
    """An endpoint where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


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
        await self.call("KV", "Compact", revision=revision)

    async def token(self, name: str, password: str) -> str:
        answer = await self.call("Auth", "Authenticate", name=name, password=password)
        return str(answer.token)  # type: ignore[attr-defined]


_REQUESTS = {
    "Compact": "Compaction",
    "UserAdd": "AuthUserAdd",
    "UserDelete": "AuthUserDelete",
    "UserGrantRole": "AuthUserGrantRole",
    "UserRevokeRole": "AuthUserRevokeRole",
    "RoleAdd": "AuthRoleAdd",
    "RoleGrantPermission": "AuthRoleGrantPermission",
}
