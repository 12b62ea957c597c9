"""Tells the transactions in etcd's history apart, from outside, and lets something happen at just such a moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from etcdlock.ports import Compare, Delete, Put, Relation, Target, Txn
from etcdlock.testing import Answered, Applied, Entry, FakeEtcd, Sent
from tests.promises.world import KEYS

FOLDERS = {"hosts": KEYS.sessions().key, "lost": KEYS.obituaries.key, "domains": KEYS.domains.key}
STEPS = ("sent", "applied", "answered")


def kind_of(txn: Txn) -> str:
    """What it is for: heartbeat, confirm, join, barrier, obituary, acquire, takeover, claim, park, unpark, rejoin, add,
    change, release, or look.
    """
    puts = [op for op in txn.success if isinstance(op, Put)]
    domains = [put for put in puts if put.key.startswith(FOLDERS["domains"])]
    if domains:
        return _of_domain(txn, domains[0], resources=any(put.key.startswith(KEYS.resources.key) for put in puts))
    if any(put.key.startswith(FOLDERS["lost"]) for put in puts):
        return "obituary"
    if puts:
        return "join" if len(txn.success) == 1 or any(put.key == KEYS.contract for put in puts) else "barrier"
    deleted = [op.where.key for op in txn.success if isinstance(op, Delete)]
    if any(key.startswith(FOLDERS["domains"]) for key in deleted):
        return "release"
    if deleted == [KEYS.never] and txn.compare:
        return "heartbeat" if txn.compare[0].number else "confirm"
    return "leave" if deleted and deleted != [KEYS.never] else "look"


def _of_domain(txn: Txn, put: Put, *, resources: bool) -> str:
    value: dict[str, Any] = json.loads(put.value)
    if any(_is_proof(compare) for compare in txn.compare):
        return "takeover"
    if any(compare.where.key == put.key and _is_absent(compare) for compare in txn.compare):
        return "acquire"
    if value["state"] == "parked":
        return "park"
    if "token" not in value:
        return "claim"
    if resources:
        return "add"
    if value.get("run") == value["request"]:
        return "unpark"
    return "change" if len(txn.success) > 1 else "rejoin"


def _is_proof(compare: Compare) -> bool:
    return compare.where.key.startswith(FOLDERS["lost"]) and compare.relation is Relation.GREATER


def _is_absent(compare: Compare) -> bool:
    return (compare.target, compare.relation, compare.number) == (Target.CREATE_REVISION, Relation.EQUAL, 0)


def writes_locks(txn: Txn) -> bool:
    """Whether it changes a domain's record."""
    return kind_of(txn) not in ("heartbeat", "confirm", "join", "barrier", "obituary", "leave", "look")


def of_kind(*kinds: str) -> Callable[[Txn], bool]:
    """Picks transactions."""
    return lambda txn: kind_of(txn) in kinds


class Moments:
    """What is to happen when. Each happens once, just after the entry, at the same instant or some time later."""

    def __init__(self, etcd: FakeEtcd) -> None:
        self._waiting: list[tuple[str, str, tuple[str, ...], float, Callable[[], object]]] = []
        self._kinds: dict[int, str] = {}
        etcd.listeners.append(self._heard)

    def when(
        self, step: str, client: str, *kinds: str, do: Callable[[], object], after_seconds: float = 0.0
    ) -> None:
        """`step` of STEPS; `client` is a host, or "" for any."""
        self._waiting.append((step, client, kinds, after_seconds, do))

    def clear(self) -> None:
        """Nothing more is to happen."""
        self._waiting.clear()

    def _heard(self, entry: Entry) -> None:
        if not self._waiting:
            return
        match entry:
            case Sent():
                self._kinds[entry.number] = kind_of(entry.txn)
                self._happened("sent", entry.client, entry.number)
            case Applied() if entry.result is not None and entry.result.succeeded:
                self._happened("applied", entry.client, entry.number)
            case Answered():
                self._happened("answered", entry.client, entry.number)

    def _happened(self, step: str, client: str, number: int) -> None:
        kind = self._kinds.get(number, "")
        for waiting in list(self._waiting):
            its_step, its_client, kinds, after_seconds, do = waiting
            if its_step == step and its_client in ("", client) and kind in kinds:
                self._waiting.remove(waiting)
                asyncio.get_running_loop().call_later(after_seconds, do)
