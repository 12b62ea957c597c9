"""Tell what disks are called, by which rule, and why.

WHAT is the path of a disk, or a libvirt domain XML, whose name ends in .xml: then all of its disks and leases. Several
may be given. Asks no etcd: two hosts that print one name for a disk mean the same disk and exclude each other.

Exits with 0, or 104 if a disk could not be identified, which is told of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etcdlock.cli.common import Common
from etcdlock.cli.exits import Exit
from etcdlock.errors import EtcdlockError, InvalidInput

if TYPE_CHECKING:
    from etcdlock.agent.namer import Namer
    from etcdlock.config import Settings
    from etcdlock.domainxml import DomainXml
    from etcdlock.identity import Identified, ResourceName

USAGE = "[OPTIONS] WHAT..."


def command(
    common: Common,
    *,
    what: Annotated[list[str] | None, typer.Argument(metavar="WHAT", hidden=True)] = None,
) -> int:
    """Look at each and say it."""
    from etcdlock.wiring import namer

    settings = common.settings()
    if not what:
        raise InvalidInput("identify: nothing is asked about", hint="give paths of disks, or a domain XML")
    names = namer(settings)
    found = [entry for text in what for entry in _entries(settings, names, text)]
    document = {"disk_identity": settings.disk_identity, "disks": found}
    common.show(document, otherwise=lambda: _print(found))
    return Exit.REFUSED if any(entry["error"] for entry in found) else Exit.OK


def _entries(settings: Settings, names: Namer, text: str, /) -> Iterator[dict[str, Any]]:
    if not text.endswith(".xml"):
        yield _of_path(names, str(Path.cwd() / text), called=text)
        return
    xml = _parsed(settings, text)
    for disk in xml.disks:
        if disk.storage.name is None:
            yield _of_path(names, disk.storage.text, called=str(disk))
        else:
            yield _of_name(disk.storage.name, called=str(disk), path=disk.storage.text, warning=disk.storage.warning)
    for lease in xml.leases:
        yield _of_name(lease.name, called=str(lease), path="", warning="")


def _parsed(settings: Settings, text: str, /) -> DomainXml:
    from etcdlock.cli.wanted import read_xml

    try:
        content = Path(text).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{text}: {error.strerror}") from error
    return read_xml(settings, content, source=text)


def _of_path(names: Namer, path: str, /, *, called: str) -> dict[str, Any]:
    try:
        (found,) = names.identified((path,))
    except EtcdlockError as error:
        return _entry(called, path, None, error=f"{error}; {error.hint}" if error.hint else str(error))
    return _entry(called, path, found)


def _of_name(name: ResourceName, /, *, called: str, path: str, warning: str) -> dict[str, Any]:
    from etcdlock.identity import Identified

    return _entry(called, path, Identified(name, "domain XML", ("named by the words of the XML",), warning))


def _entry(called: str, path: str, found: Identified | None, /, *, error: str | None = None) -> dict[str, Any]:
    return {
        "asked": called,
        "path": path,
        "lockspace": None if found is None else found.name.lockspace,
        "name": None if found is None else found.name.name,
        "rule": None if found is None else found.rule,
        "evidence": [] if found is None else list(found.evidence),
        "warning": None if found is None else found.warning or None,
        "error": error,
    }


def _print(found: Sequence[dict[str, Any]], /) -> None:
    from etcdlock.cli import tables

    out = tables.console()
    for number, entry in enumerate(found):
        if number:
            out.print()
        out.print(tables.text(entry["asked"]), soft_wrap=True)
        if entry["error"]:
            out.print(tables.text(f"  NOT IDENTIFIED: {entry['error']}"), soft_wrap=True)
            continue
        for label, value in (
            ("lockspace", entry["lockspace"]),
            ("name", entry["name"]),
            ("rule", entry["rule"]),
            *(("because", reason) for reason in entry["evidence"]),
            *((("warning", entry["warning"]),) if entry["warning"] else ()),
        ):
            out.print(tables.text(f"  {label:9}  {value}"), soft_wrap=True)
