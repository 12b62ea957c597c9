"""Several transactions nested in one request to etcd, and their answers; what `committer` needs of the adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from etcdlock.adapters.etcd_call import Caller, Metadata
from etcdlock.adapters.etcd_channel import Link
from etcdlock.adapters.etcd_convert import txn_request, txn_result
from etcdlock.adapters.sharing import nested_operations
from etcdlock.adapters.stubs import Stubs
from etcdlock.errors import TooManyOperations
from etcdlock.ports import Txn, TxnResult


async def send_batch(
    txns: Sequence[Txn], /, *, caller: Caller, stubs: Stubs, max_txn_ops: int
) -> tuple[TxnResult, ...]:
    """Send them once. Raises `TooManyOperations` before anything is sent, else what a transaction raises."""
    size = nested_operations(txns)
    if size > max_txn_ops:
        raise TooManyOperations(f"{len(txns)} transactions take {size} operations nested; {max_txn_ops} are allowed.")
    request = batch_request(txns, stubs=stubs)

    async def send(link: Link, metadata: Metadata, timeout_seconds: float) -> tuple[TxnResult, ...]:
        return batch_results(await link.kv.Txn(request, timeout=timeout_seconds, metadata=metadata))

    return await caller.call(send, once=True)


def batch_request(txns: Sequence[Txn], /, *, stubs: Stubs) -> Any:
    messages = stubs.messages
    nested = [messages.RequestOp(request_txn=txn_request(txn, stubs=stubs)) for txn in txns]
    return messages.TxnRequest(success=nested)


def batch_results(response: Any, /) -> tuple[TxnResult, ...]:
    """One for each; etcd states the revision only for the whole, and it is that of each of them."""
    revision = response.header.revision
    return tuple(replace(txn_result(nested.response_txn), revision=revision) for nested in response.responses)
