"""Our words to etcd's messages and back; pure.

Keys are text here and bytes there. Bytes that are no UTF-8 travel as surrogate escapes, so that whatever another
program has put under a prefix is read without an error and without two keys becoming one.
"""

from __future__ import annotations

from typing import Any, Final

from etcdlock.adapters.stubs import Stubs
from etcdlock.errors import TooManyOperations
from etcdlock.ports import (
    Compare,
    Delete,
    Event,
    Get,
    KeyRange,
    KeyValue,
    Op,
    Put,
    Relation,
    Target,
    Txn,
    TxnResult,
)

_EVERYTHING_AFTER: Final = b"\0"  # etcd's way to write a range without an end
_RELATIONS: Final = {Relation.EQUAL: "EQUAL", Relation.LESS: "LESS", Relation.GREATER: "GREATER"}
_TARGETS: Final = {Target.CREATE_REVISION: "CREATE", Target.MOD_REVISION: "MOD"}
_FIELDS: Final = {Target.CREATE_REVISION: "create_revision", Target.MOD_REVISION: "mod_revision"}


def key_bytes(key: str, /) -> bytes:
    return key.encode("utf-8", errors="surrogateescape")


def key_text(key: bytes, /) -> str:
    return key.decode("utf-8", errors="surrogateescape")


def bounds(where: KeyRange, /) -> dict[str, bytes]:
    """`key` and, over a prefix, `range_end` as etcd wants them."""
    key = key_bytes(where.key)
    if not where.prefix:
        return {"key": key}
    return {"key": key or b"\0", "range_end": _prefix_end(key)}


def span_of(ranges: tuple[KeyRange, ...], /) -> dict[str, bytes]:
    """The smallest single range that covers all of `ranges`."""
    edges = [bounds(where) for where in ranges]
    ends = [edge.get("range_end", edge["key"] + b"\0") for edge in edges]
    end = _EVERYTHING_AFTER if _EVERYTHING_AFTER in ends else max(ends)
    return {"key": min(edge["key"] for edge in edges), "range_end": end}


def covers(where: KeyRange, /, *, key: str) -> bool:
    return key.startswith(where.key) if where.prefix else key == where.key


def _prefix_end(prefix: bytes) -> bytes:
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else _EVERYTHING_AFTER


def check_size(txn: Txn, /, *, max_txn_ops: int) -> None:
    """Refuse what etcd would refuse; it counts compares and each branch alone."""
    size = max(len(txn.compare), len(txn.success), len(txn.failure))
    if size > max_txn_ops:
        raise TooManyOperations(
            f"The request takes {size} operations in one etcd transaction; {max_txn_ops} are allowed.",
            hint="Raise --max-txn-ops of every etcd member and the setting max_txn_ops, or lock fewer disks at once.",
        )


def txn_request(txn: Txn, /, *, stubs: Stubs) -> Any:
    return stubs.messages.TxnRequest(
        compare=[_compare(item, stubs=stubs) for item in txn.compare],
        success=[_request(item, stubs=stubs) for item in txn.success],
        failure=[_request(item, stubs=stubs) for item in txn.failure],
    )


def _compare(item: Compare, *, stubs: Stubs) -> Any:
    return stubs.messages.Compare(
        result=_RELATIONS[item.relation],
        target=_TARGETS[item.target],
        **{_FIELDS[item.target]: item.number},
        **bounds(item.where),
    )


def _request(item: Op, *, stubs: Stubs) -> Any:
    messages = stubs.messages
    match item:
        case Put(key=key, value=value, lease=lease):
            put = messages.PutRequest(key=key_bytes(key), value=value, lease=lease)
            return messages.RequestOp(request_put=put)
        case Delete(where=where):
            return messages.RequestOp(request_delete_range=messages.DeleteRangeRequest(**bounds(where)))
        case Get(where=where):
            return messages.RequestOp(request_range=messages.RangeRequest(**bounds(where)))


def txn_result(response: Any, /) -> TxnResult:
    return TxnResult(
        succeeded=response.succeeded,
        revision=response.header.revision,
        replies=tuple(key_values(reply.response_range.kvs) for reply in response.responses),
    )


def key_values(found: Any, /) -> tuple[KeyValue, ...]:
    return tuple(
        KeyValue(
            key=key_text(item.key),
            value=item.value,
            create_revision=item.create_revision,
            mod_revision=item.mod_revision,
            lease=item.lease,
        )
        for item in found
    )


def event(message: Any, /) -> Event:
    # The revision of a deletion is the mod_revision of what etcd leaves in the key's place.
    deleted = message.type == message.DELETE
    return Event(
        key=key_text(message.kv.key),
        value=None if deleted else message.kv.value,
        revision=message.kv.mod_revision,
    )
