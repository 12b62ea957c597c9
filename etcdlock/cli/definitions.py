"""A domain of this host's libvirt by its name or UUID, as libvirt has written it down; no daemon is asked.

A guest that runs is taken as it is now, with what was plugged in since its start; any other as it is defined. Only this
user's libvirt is looked at: the system's for root.

Not guaranteed: that a domain which runs is seen where its status cannot be read. Then it is taken as it is defined;
what it holds is refused in any case.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from etcdlock.cli.host_facts import LARGEST_STATUS, Places
from etcdlock.domainxml import DomainXml, parse_domain
from etcdlock.errors import InvalidInput
from etcdlock.guard import table
from etcdlock.identity import escaped
from etcdlock.libvirt.status import parse_status

if TYPE_CHECKING:
    from collections.abc import Callable


def domain_called(name: str, there: Places, /, *, chains: bool) -> DomainXml:
    """The one. Raises `InvalidInput` where libvirt has none of that name, or what it has cannot be read."""
    unread: list[str] = []
    for folder, read in ((there.statuses, _running), (there.definitions, _defined)):
        for file in _likely(folder, name):
            found = _read(file, read, chains=chains, unread=unread)
            if found is not None and name in (found.domain.name, str(found.domain.uuid)):
                return found
    raise InvalidInput(
        "\n".join((f"libvirt has no domain '{escaped(name)}' on this host", *unread)),
        hint="'virsh list --all' shows names; the XML of another host's can be given as a file",
    )


def _likely(folder: Path, name: str, /) -> Iterator[Path]:
    """Files are called after their domains; all of them are looked into, for its UUID may be meant."""
    called = folder / f"{name}.xml"
    files = sorted(folder.glob("*.xml"))
    yield from ([called] if called in files else [])
    yield from (file for file in files if file != called)


def _read(
    file: Path, read: Callable[[Path, bool], DomainXml | None], /, *, chains: bool, unread: list[str]
) -> DomainXml | None:
    try:
        return read(file, chains)
    except OSError as error:
        unread.append(f"{escaped(str(file))}: {error.strerror}")
    except InvalidInput as error:
        unread.append(str(error))
    return None


def _running(file: Path, chains: bool, /) -> DomainXml | None:
    status = parse_status(_text(file), source=str(file), chains=chains)
    process = table.look_up(status.pid)
    return status.xml if process is not None and process.alive else None


def _defined(file: Path, chains: bool, /) -> DomainXml:
    return parse_domain(_text(file), source=str(file), chains=chains)


def _text(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(LARGEST_STATUS)
