"""List what no living session can own, and remove it.

Without --remove nothing is changed. Removed are locks of sessions that are proven dead, proofs that no lock needs any
more, and old records of fencing, each only if nothing that speaks for it has changed since it was looked at. Listed
and left alone is what a guest might still run by: locks of sessions without a proof, disks' locks whose domain is gone,
and records that cannot be read.

Exits with 0; 101 if etcd is away, 102 if it did not say whether something was removed (then do it again), 106 if it
denies access.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from etcdlock.cli.common import Common, run_async
from etcdlock.cli.exits import Exit
from etcdlock.errors import InvalidInput

if TYPE_CHECKING:
    from etcdlock.adapters.etcd import EtcdStore
    from etcdlock.config import Settings
    from etcdlock.documents import Document
    from etcdlock.housekeeping import Plan, Removal

USAGE = "[OPTIONS]"
ROUNDS = 5
"""Of look and remove: what a busy cluster has changed meanwhile is looked at anew."""


def command(
    common: Common,
    *,
    remove: Annotated[bool, typer.Option("--remove", help="do it; else it is only listed")] = False,
    older_than: Annotated[
        float,
        typer.Option(
            "--older-than", metavar="DAYS", help="only what has been over for so long [7]", show_default=False
        ),
    ] = 7.0,
) -> int:
    """Look, remove where that is wanted, and say what was done."""
    if not (math.isfinite(older_than) and 0 <= older_than <= 100_000):
        raise InvalidInput(f"--older-than is {older_than:g}: give a number of days, 0 or more")
    settings = common.settings()
    document = run_async(_clean(settings, remove=remove, days=older_than))
    common.show(document, otherwise=lambda: _print(document))
    return Exit.OK


async def _clean(settings: Settings, /, *, remove: bool, days: float) -> Document:
    from etcdlock.documents import leftover_document
    from etcdlock.wiring import open_store

    removed: list[Removal] = []
    async with open_store(settings) as store:
        for _ in range(ROUNDS if remove else 1):
            planned = await _plan(store, settings, days=days)
            done = [item for item in planned.removals if remove and (await store.txn(item.txn)).succeeded]
            removed += done
            if not done:
                break
        if remove:
            planned = await _plan(store, settings, days=days)
    return {
        "removed": [{"kind": item.kind, "key": item.key, "text": item.text} for item in removed],
        "removable": [{"kind": item.kind, "key": item.key, "text": item.text} for item in planned.removals],
        "left": [leftover_document(item) for item in planned.left],
    }


async def _plan(store: EtcdStore, settings: Settings, /, *, days: float) -> Plan:
    from datetime import UTC, datetime, timedelta

    from etcdlock.cli.looking import look_with
    from etcdlock.housekeeping import plan

    survey = await look_with(store, settings)
    return plan(survey, keys=settings.keyspace, now=datetime.now(UTC), older_than=timedelta(days=days))


def _print(cleaned: Document, /) -> None:
    from etcdlock.cli import tables

    out = tables.console()
    for title, name in (("Removed", "removed"), ("May be removed", "removable"), ("Left alone", "left")):
        if cleaned[name]:
            out.print(title, style="bold")
        for item in cleaned[name]:
            out.print(tables.text(f"  {item['kind']}: {item['text']}"), soft_wrap=True)
    if not any(cleaned.values()):
        out.print("There is nothing to clean up.")
    elif cleaned["removable"] and not cleaned["removed"]:
        out.print("Nothing was removed: --remove does it.")
