"""Many acquires at once: group commit against one request each.

64 tasks of one process acquire domains with one disk, all at the same time. "Transactions" are the bare acquire
transitions on the store; "ledger" is all that a user gets, the guard's answer for each guest included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from time import perf_counter

from benchmarks.host import Host
from benchmarks.measure import Once, Rounds, Spread, ratio
from benchmarks.report import Row, Section
from etcdlock.adapters.committer import Committer
from etcdlock.agent.ledger import Ledger
from etcdlock.ports import Delete, KeyRange, Put, Store, Txn
from etcdlock.transitions import acquire

ACQUIRERS = 64
MAX_TXN_OPS = 128
ALONE, GROUPED = "transactions, one request each", "transactions, group commit"
LEDGER_ALONE, LEDGER_GROUPED = "ledger, one request each", "ledger, group commit"


def subjects(host: Host, /) -> dict[str, Once]:
    committer = Committer(host.store, max_txn_ops=MAX_TXN_OPS)
    return {
        ALONE: _transactions(host, host.store),
        GROUPED: _transactions(host, committer),
        LEDGER_ALONE: _acquires(host, host.ledger),
        LEDGER_GROUPED: _acquires(host, host.group_ledger),
    }


def section(rounds: Rounds, /) -> Section:
    rates = [Row(name, Spread.of([ACQUIRERS / seconds for seconds in rounds[name]]), "/s") for name in rounds]
    gains = [
        Row("gain by group commit, transactions", ratio(rounds, ALONE, to=GROUPED), "×"),
        Row("gain by group commit, ledger", ratio(rounds, LEDGER_ALONE, to=LEDGER_GROUPED), "×"),
    ]
    return Section(f"{ACQUIRERS} acquirers at once, 1 disk each", [*rates, *gains])


async def _timed(tasks: Sequence[Awaitable[object]]) -> float:
    begun = perf_counter()
    await asyncio.gather(*tasks)
    return perf_counter() - begun


def _transactions(host: Host, store: Store) -> Once:
    async def once() -> float:
        session = host.session()
        changes = [acquire(host.context.keys, session, host.wanted(1)) for _ in range(ACQUIRERS)]
        taken = await _timed([_succeed(store, change.txn) for change in changes])
        for change in changes:
            keys = [op.key for op in change.txn.success if isinstance(op, Put)]
            await store.txn(Txn((), tuple(Delete(KeyRange(key)) for key in keys)))
        return taken

    return once


async def _succeed(store: Store, txn: Txn) -> None:
    if not (await store.txn(txn)).succeeded:
        raise RuntimeError("a free domain was refused")


def _acquires(host: Host, ledger: Ledger) -> Once:
    async def once() -> float:
        wanted = [host.wanted(1) for _ in range(ACQUIRERS)]
        taken = await _timed([ledger.acquire(each, host.guest, until=host.until) for each in wanted])
        for each in wanted:
            await ledger.release(each.domain.uuid, until=host.until)
        return taken

    return once
