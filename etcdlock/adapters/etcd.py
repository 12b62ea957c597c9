"""The store on etcd, over etcd3's stubs and asyncio gRPC.

What etcd3 lacks is done here and in the modules beside it: several endpoints, a bound on every call, tokens that are
renewed, watches that resume, range compares, and errors that keep "refused" and "not known" apart.

A transaction is sent once. Only "not connected", a stale token and "too many requests", each of which says for certain
that nothing was applied, let it go out again. Reads, grants and renewals are repeated at the next endpoint; a grant
whose answer was lost leaves a lease behind that expires by itself.

A store belongs to the event loop it is first used in.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import grpc

from etcdlock.adapters import etcd_convert as convert
from etcdlock.adapters import stubs as etcd3_stubs
from etcdlock.adapters.etcd_batch import send_batch
from etcdlock.adapters.etcd_call import Caller, Metadata
from etcdlock.adapters.etcd_channel import EndpointFailed, Link
from etcdlock.adapters.etcd_errors import Answer, LeaseUnknown
from etcdlock.adapters.etcd_inspect import EndpointReport, inspect
from etcdlock.adapters.etcd_options import EtcdOptions
from etcdlock.adapters.etcd_watch import Watch
from etcdlock.ports import Event, KeyRange, Lease, Snapshot, Txn, TxnResult

__all__ = ["EndpointReport", "EtcdOptions", "EtcdStore"]


class EtcdStore:
    """`ports.Store` on a real etcd. Raises `InvalidSetting` when made with unreadable certificates."""

    def __init__(self, options: EtcdOptions, /) -> None:
        self._options = options
        self._stubs = etcd3_stubs.load()
        self._messages: Any = self._stubs.messages
        self._caller = Caller(options, stubs=self._stubs)

    @property
    def endpoint(self) -> str:
        """The one in use: it is asked next."""
        return self._caller.ring.current

    async def txn(self, txn: Txn, /) -> TxnResult:
        """Send it once. Raises `TooManyOperations` before anything is sent."""
        convert.check_size(txn, max_txn_ops=self._options.max_txn_ops)
        request = convert.txn_request(txn, stubs=self._stubs)

        async def send(link: Link, metadata: Metadata, timeout_seconds: float) -> TxnResult:
            return convert.txn_result(await link.kv.Txn(request, timeout=timeout_seconds, metadata=metadata))

        return await self._caller.call(send, once=True)

    async def txn_batch(self, txns: Sequence[Txn], /) -> tuple[TxnResult, ...]:
        """Send them once, nested in one request: `committer.BatchStore`."""
        return await send_batch(txns, caller=self._caller, stubs=self._stubs, max_txn_ops=self._options.max_txn_ops)

    async def read(self, where: KeyRange, /) -> Snapshot:
        request = self._messages.RangeRequest(**convert.bounds(where))

        async def send(link: Link, metadata: Metadata, timeout_seconds: float) -> Snapshot:
            response = await link.kv.Range(request, timeout=timeout_seconds, metadata=metadata)
            return Snapshot(revision=response.header.revision, found=convert.key_values(response.kvs))

        return await self._caller.call(send, once=False)

    async def grant(self, *, ttl_seconds: int) -> Lease:
        request = self._messages.LeaseGrantRequest(TTL=ttl_seconds)

        async def send(link: Link, metadata: Metadata, timeout_seconds: float) -> Lease:
            response = await link.lease.LeaseGrant(request, timeout=timeout_seconds, metadata=metadata)
            return Lease(id=response.ID, ttl_seconds=response.TTL)

        return await self._caller.call(send, once=False)

    async def keep_alive(self, lease: int, /) -> int:
        """One stream a call: it costs one round trip, and no stream can go stale unnoticed."""
        request = self._messages.LeaseKeepAliveRequest(ID=lease)

        async def send(link: Link, metadata: Metadata, timeout_seconds: float) -> int:
            call = link.lease.LeaseKeepAlive(iter((request,)), timeout=timeout_seconds, metadata=metadata)
            try:
                async for response in call:
                    return max(int(response.TTL), 0)
            finally:
                call.cancel()
            raise EndpointFailed(Answer(link.endpoint, grpc.StatusCode.UNKNOWN, "the renewal was not answered"))

        return await self._caller.call(send, once=False)

    async def revoke(self, lease: int, /) -> None:
        request = self._messages.LeaseRevokeRequest(ID=lease)

        async def send(link: Link, metadata: Metadata, timeout_seconds: float) -> None:
            await link.lease.LeaseRevoke(request, timeout=timeout_seconds, metadata=metadata)

        try:
            await self._caller.call(send, once=False)
        except LeaseUnknown:
            return  # it is gone, which is what was wanted

    def watch(self, ranges: Sequence[KeyRange], *, after_revision: int) -> AsyncGenerator[Event, None]:
        """Close it (`contextlib.aclosing`) to end the stream at once."""
        watch = Watch(
            ranges,
            after_revision=after_revision,
            caller=self._caller,
            stubs=self._stubs,
            try_seconds=self._options.try_timeout_seconds,
        )
        return watch.events()

    async def inspect(self) -> tuple[EndpointReport, ...]:
        """What each endpoint says of itself, in the order of the settings; never raises for an endpoint's failure."""
        return await inspect(self._options.endpoints, caller=self._caller, stubs=self._stubs)

    async def close(self) -> None:
        """Calls under way end: a transaction with `OutcomeUnknown`, a watch with `WatchCancelled`."""
        await self._caller.ring.close()
