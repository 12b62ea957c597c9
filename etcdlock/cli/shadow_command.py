"""Show what would have been refused or stopped in shadow mode.

With mode = "shadow" the agent answers yes to everything and stops no guest. What it would have done is on
record on this host (state_folder); here it is told, alike things together, with how often and when the first and the
last time. The record stays when the trial is over; delete the file to begin anew.

Exits with 0 if nothing would have been refused or stopped, 107 otherwise, 104 if the record may not be read, or there
is none.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from etcdlock.cli.common import Common
from etcdlock.cli.exits import Exit

if TYPE_CHECKING:
    from etcdlock.documents import Document

USAGE = "[OPTIONS]"


def command(common: Common) -> int:
    """Read and show."""
    from etcdlock.adapters.flight_record import read_or_say_why
    from etcdlock.cli.shadow_report import report
    from etcdlock.errors import Refused
    from etcdlock.wiring import agent_host_id, shadow_places

    settings = common.settings()
    mine = settings.model_copy(update={"host_id": agent_host_id(settings, uid=os.geteuid())})
    places = shadow_places(mine)
    lines, unread = read_or_say_why(places)
    found = report(lines, host=mine.host_id, unread=unread)
    if unread or not found["starts"]:
        raise Refused(
            f"nothing is known of a trial on host {mine.host_id}: {unread or f'{places.file} has no record of one'}",
            hint='run this as the user of an agent that was started with mode = "shadow"',
        )
    common.show(found, otherwise=lambda: _print(found))
    return Exit.FINDINGS if found["refused"] or found["stopped"] else Exit.OK


def _print(found: Document, /) -> None:
    from etcdlock.cli import tables

    out = tables.console()
    since = tables.when(found["since"])
    begun = f"Shadow mode on host {found['host']} since {since}, started {found['starts']} time(s)"
    out.print(tables.text(begun), soft_wrap=True)
    out.print("\nWould have been refused", style="bold")
    if not found["refused"]:
        out.print("  nothing")
    for row in found["refused"]:
        resources = f": {row['resources']}" if row["resources"] else ""
        holders = f"; held by {row['holders']}" if row["holders"] else ""
        _row(out, row, f"{row['domain'] or row['uuid'] or '-'}, {row['asked']}{resources}", f"{row['reason']}{holders}")
    out.print("\nWould have been stopped", style="bold")
    if not found["stopped"]:
        out.print("  nothing")
    for row in found["stopped"]:
        _row(out, row, f"{row['domain'] or '-'} (process {row['pid']})", f"{row['reason']}: {row['first_action']}")


def _row(out: Any, row: Document, what: str, why: str, /) -> None:
    from etcdlock.cli import tables

    until = f" to {tables.when(row['last'])}" if row["times"] > 1 else ""
    out.print(tables.text(f"  {what}"), soft_wrap=True)
    out.print(tables.text(f"    {why}; {row['times']} time(s), {tables.when(row['first'])}{until}"), soft_wrap=True)
    if row["words"]:
        out.print(tables.text(f"    {row['words']}"), soft_wrap=True)
