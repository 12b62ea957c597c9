"""Tell what happened to a guest or a host.

WHAT is a domain's name or UUID, or a host's id. What etcd knows is told on every host: who has the locks, from whom
they came, with which proof, who wrote it and when. What this host has on record is told besides: the last heartbeats,
when they were overdue, what was stopped, when, and by whom.

Exits with 0; 2 if nothing is known of WHAT; 101 if etcd is away, after what this host has on record; 106 if etcd denies
access.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from etcdlock.cli.common import Common
from etcdlock.cli.exits import Exit
from etcdlock.cli.via import ViaOption, agent_for
from etcdlock.errors import Unreachable
from etcdlock.meeting import Purpose

if TYPE_CHECKING:
    from etcdlock.config import Settings
    from etcdlock.documents import Document
    from etcdlock.survey import Survey

USAGE = "[OPTIONS] WHAT"


def command(
    common: Common, *, what: Annotated[str, typer.Argument(metavar="WHAT", hidden=True)], via: ViaOption = None
) -> int:
    """Look, read, tell."""
    settings = common.settings(via=via)
    agent = agent_for(settings, Purpose.LOOK)
    document = agent.why(what) if agent is not None else _tell(settings, what)
    common.show(document, otherwise=lambda: _print(document))
    return Exit.OK if document["etcd_error"] is None else Exit.UNREACHABLE


def _tell(settings: Settings, what: str, /) -> Document:
    """One's own way."""
    from etcdlock.adapters.flight_record import read_or_say_why
    from etcdlock.chronicle import tell
    from etcdlock.cli.looking import rules_of
    from etcdlock.wiring import agent_host_id, record_places

    mine = settings.model_copy(update={"host_id": agent_host_id(settings, uid=os.geteuid())})
    survey, trouble = _survey(settings)
    record, unread = read_or_say_why(record_places(mine))
    rules = settings.contract if survey is None else rules_of(survey, mine=settings.contract)
    told = tell(what, survey, record, host=mine.host_id, timing=rules.timing, needs=rules.takeover_needs)
    return {**told, "etcd_error": trouble, "record_error": unread}


def _survey(settings: Settings, /) -> tuple[Survey | None, str | None]:
    from etcdlock.cli.looking import look

    try:
        return look(settings.model_copy(update={"via": "own"})), None
    except Unreachable as error:
        return None, str(error)


def _print(told: Document, /) -> None:
    from etcdlock.cli import tables

    out = tables.console()
    out.print("What etcd knows", style="bold")
    for sentence in told["told"] if told["etcd_error"] is None else [told["etcd_error"]]:
        out.print(tables.text(f"  {sentence}"), soft_wrap=True)
    for item in told["fencings"]:
        said = f"fencing of host {item['host']} {item['state']}, by {item['by']} at {item['when']}: {item['reason']}"
        out.print(tables.text(f"  {said}; {item['detail']}"), soft_wrap=True)
    out.print("\nWhat this host has on record", style="bold")
    if told["record_error"]:
        out.print(tables.text(f"  {told['record_error']}"), soft_wrap=True)
    for event in told["events"]:
        out.print(tables.text(f"  {_line(event)}"), soft_wrap=True)
    if not told["events"]:
        out.print("  nothing")


def _line(event: Document, /) -> str:
    fields = " ".join(f"{name}={value}" for name, value in event["fields"].items())
    meaning = f"{event['meaning']} " if event["meaning"] else ""
    return f"{event['at'][:23].replace('T', ' ')} {event['event']}: {meaning}[{fields}]"
