"""Acquire of a domain, as a user gets it, against a bare transaction of the same client.

In the time of an acquire are: arming the guest in this process and in the guard's, building records and transaction,
one round trip to etcd, reading the answer, and the check that it came in time. Its release is not in it.
The bare transaction puts one key with a value of 100 bytes and compares nothing.
"""

from __future__ import annotations

from time import perf_counter
from uuid import uuid4

from benchmarks.host import Host
from benchmarks.measure import Once, Rounds, ratio, seconds_of
from benchmarks.report import Row, Section
from etcdlock import transitions
from etcdlock.adapters.etcd import EtcdStore
from etcdlock.ports import Put, Txn

BARE = "bare transaction"
ARM, TRANSACT = "arming a guest, alone", "the transaction of 1 disk, alone"
GOALS = {1: 1.3, 4: 1.6, 16: 2.5}


def subjects(host: Host, /) -> dict[str, Once]:
    parts = {ARM: _arm(host), TRANSACT: _transact(host)}
    return {BARE: bare(host.store), **{_name(disks): acquire(host, disks=disks) for disks in GOALS}, **parts}


def section(rounds: Rounds, /) -> Section:
    bare = Row("a bare transaction: one key, no compare", seconds_of(rounds, BARE).times(1000), "ms")
    names = [*map(_name, GOALS), ARM, TRANSACT]
    taken = [Row(name, seconds_of(rounds, name).times(1000), "ms") for name in names]
    ratios = [
        Row(f"{_name(disks)}, against the bare transaction", ratio(rounds, _name(disks), to=BARE), "×", goal)
        for disks, goal in GOALS.items()
    ]
    part = Row(f"{TRANSACT}, against the bare one", ratio(rounds, TRANSACT, to=BARE), "×")
    return Section("Acquire of a domain", [bare, *taken, *ratios, part])


def acquire(host: Host, /, *, disks: int) -> Once:
    """Time the acquire of a new domain, and release it."""

    async def once() -> float:
        wanted = host.wanted(disks)
        begun = perf_counter()
        await host.ledger.acquire(wanted, host.guest, until=host.until)
        taken = perf_counter() - begun
        await host.ledger.release(wanted.domain.uuid, until=host.until)
        return taken

    return once


def bare(store: EtcdStore, /) -> Once:
    """The least that etcd can be asked to write."""

    async def once() -> float:
        txn = Txn((), (Put(f"/bench/{uuid4()}", b"x" * 100),))
        begun = perf_counter()
        await store.txn(txn)
        return perf_counter() - begun

    return once


def _arm(host: Host) -> Once:
    async def once() -> float:
        begun = perf_counter()
        await host.guard.arm(host.guest, session=host.session().ref.session)
        taken = perf_counter() - begun
        await host.guard.disarm(host.guest)
        return taken

    return once


def _transact(host: Host) -> Once:
    """What an acquire sends, and nothing of what is done round it."""

    async def once() -> float:
        wanted = host.wanted(1)
        begun = perf_counter()
        change = transitions.acquire(host.context.keys, host.session(), wanted)
        result = await host.store.txn(change.txn)
        taken = perf_counter() - begun
        stored = change.stored(result.revision)
        if stored is None or not result.succeeded:
            raise RuntimeError("a free domain was refused")
        await host.store.txn(transitions.release(host.context.keys, host.session(), stored).txn)
        return taken

    return once


def _name(disks: int) -> str:
    return f"acquire, {disks} disk{'s' * (disks > 1)}"
