"""Tell who holds a domain or a disk, or that it is free.

DOMAIN is a UUID or a name. With --disk it is asked who stands in the way of that disk in that mode (exclusive unless it
says otherwise), with --domain of everything that the XML's domain needs.

Exits with 0 if all of it is free and 100 if a lock stands in the way, also one that may be taken over now; 105 if a
record that would tell cannot be read, 101 if etcd is away, 106 if it denies access.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etcdlock.cli.common import Common
from etcdlock.cli.exits import Exit
from etcdlock.cli.looking import look, rules_of
from etcdlock.cli.via import ViaOption
from etcdlock.errors import InvalidInput

if TYPE_CHECKING:
    from etcdlock.config import Settings
    from etcdlock.inquiry import Answer, Question
    from etcdlock.session import Contract

USAGE = "[OPTIONS] (DOMAIN | --disk PATH | --domain FILE.xml)"


def command(
    common: Common,
    *,
    domain: Annotated[str | None, typer.Argument(metavar="DOMAIN", hidden=True)] = None,
    disk: Annotated[
        str | None, typer.Option(metavar="PATH[:qcow2][:shared|:readonly]", help="ask about a disk")
    ] = None,
    xml: Annotated[
        Path | None, typer.Option("--domain", metavar="FILE.xml", help="ask about a libvirt domain XML")
    ] = None,
    via: ViaOption = None,
) -> int:
    """Look and answer."""
    from etcdlock.documents import answer_document
    from etcdlock.inquiry import answer, check_readable

    settings = common.settings(via=via)
    question = _question(settings, domain=domain, disk=disk, xml=xml)
    mine = settings.contract
    survey = look(settings)
    found = answer(survey, question, keys=settings.keyspace)
    check_readable(question, found)
    rules = rules_of(survey, mine=mine)
    common.show(
        answer_document(question, found, needs=rules.takeover_needs),
        otherwise=lambda: _print(question, found, rules=rules),
    )
    return Exit.HELD_ELSEWHERE if found.blockers else Exit.OK


def _question(settings: Settings, /, *, domain: str | None, disk: str | None, xml: Path | None) -> Question:
    from etcdlock.cli.wanted import described, read_wanted
    from etcdlock.inquiry import Question, asked

    if sum(given is not None for given in (domain, disk, xml)) != 1:
        raise InvalidInput("inquire: ask about one thing", hint="give a DOMAIN, or --disk PATH, or --domain FILE.xml")
    if domain is not None:
        return asked(domain)
    who, resources = read_wanted(settings, file=xml, uuid=None, name="", disks=[disk] if disk is not None else [])
    if xml is None:
        return Question(f"disk {described(resources[0])}", resources=resources)
    return Question(f"domain {who} with all it needs", uuid=who.uuid, resources=resources)


def _print(question: Question, found: Answer, /, *, rules: Contract) -> None:
    from etcdlock.cli import tables
    from etcdlock.cli.wanted import described
    from etcdlock.explain import describe_blocker

    out = tables.console()
    if not found.blockers:
        out.print(tables.text(f"{question} is free: no lock stands in the way"), soft_wrap=True)
    for blocker in found.blockers:
        told = describe_blocker(blocker, timing=rules.timing, needs=rules.takeover_needs)
        out.print(tables.text(told), soft_wrap=True)
    for lock in found.locks:
        record = lock.stored.record
        out.print()
        for label, value in (
            ("domain", f"{record.domain.name or '(no name)'}, {record.domain.uuid}"),
            ("held by", f"host {record.owner.host}, session {record.owner.session}, process {record.pid or 'unknown'}"),
            ("since", f"{tables.when(record.since)}, token {lock.stored.token}"),
            ("standing", tables.takeover_text(lock, needs=rules.takeover_needs, timing=rules.timing)),
            *(("resource", described(resource)) for resource in record.resources),
        ):
            out.print(tables.text(f"  {label:9} {value}"), soft_wrap=True)
    tables.show_leftovers(out, found.unreadable)
