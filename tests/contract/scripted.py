"""A gRPC server that says as etcd what the test tells it to: for what a real etcd cannot be brought to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from etcdlock.adapters import stubs
from tests.contract.etcds import refusing_endpoint

MESSAGES = stubs.load().messages
Stream = Callable[[Any, Any], AsyncIterator[Any]]


class ScriptedEtcd:
    """`streams` answer one watch after the other, each given what was asked and the call; the last one goes on.

    Every transaction ends with `txn_error`; `txns` counts them. A read is answered by nothing, and heard of in
    `read_begins`; it ends with an error once `read_ends`. A member that has lost its leader ends only those
    watches that want to be told of it: `told_of_lost_leaders` if all did.
    """

    def __init__(
        self, *streams: Stream, txn_error: tuple[grpc.StatusCode, str] = (grpc.StatusCode.UNKNOWN, "nothing scripted")
    ) -> None:
        self._streams = list(streams)
        self._txn_error = txn_error
        self.asked: list[Any] = []
        self.told_of_lost_leaders = True
        self.txns = 0
        self.read_begins, self.read_ends = asyncio.Event(), asyncio.Event()

    async def Status(self, _request: Any, _call: Any) -> Any:  # noqa: N802  # gRPC names it
        return MESSAGES.StatusResponse(leader=1)

    async def Txn(self, _request: Any, call: Any) -> Any:  # noqa: N802
        self.txns += 1
        await call.abort(*self._txn_error)

    async def Range(self, _request: Any, call: Any) -> Any:  # noqa: N802
        self.read_begins.set()
        await self.read_ends.wait()
        await call.abort(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")

    async def Watch(self, requests: AsyncIterator[Any], call: Any) -> AsyncIterator[Any]:  # noqa: N802
        request = (await anext(aiter(requests))).create_request
        self.asked.append(request)
        self.told_of_lost_leaders &= ("hasleader", "true") in call.invocation_metadata()
        stream = self._streams.pop(0) if len(self._streams) > 1 else self._streams[0]
        async for response in stream(request, call):
            yield response


@asynccontextmanager
async def serving(etcd: ScriptedEtcd) -> AsyncIterator[str]:
    """Its endpoint, within the block."""
    endpoint = refusing_endpoint()
    server = grpc.aio.server()
    server.add_insecure_port(endpoint)
    handlers = {
        "KV": {
            "Txn": _unary(etcd.Txn, MESSAGES.TxnRequest, MESSAGES.TxnResponse),
            "Range": _unary(etcd.Range, MESSAGES.RangeRequest, MESSAGES.RangeResponse),
        },
        "Maintenance": {"Status": _unary(etcd.Status, MESSAGES.StatusRequest, MESSAGES.StatusResponse)},
        "Watch": {
            "Watch": grpc.stream_stream_rpc_method_handler(
                etcd.Watch, MESSAGES.WatchRequest.FromString, MESSAGES.WatchResponse.SerializeToString
            )
        },
    }
    for service, methods in handlers.items():
        generic = grpc.method_handlers_generic_handler(f"etcdserverpb.{service}", methods)
        server.add_generic_rpc_handlers((generic,))
    await server.start()
    try:
        yield endpoint
    finally:
        await server.stop(None)


def _unary(method: Any, request: Any, response: Any) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(method, request.FromString, response.SerializeToString)
