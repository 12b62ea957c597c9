"""Whether a guest comes here by a live migration, as libvirt has written it down before it asks for the guest's locks.

A migration may claim what its domain has parked on another host; a guest that is restored from a file may not, though
QEMU is started alike for both. Where libvirt's word cannot be read the answer is no: then the migration fails and the
guest stays where it was.
"""

from __future__ import annotations

import logging
from pathlib import Path

from etcdlock.cli.host_facts import LARGEST_STATUS
from etcdlock.errors import InvalidDomainXml
from etcdlock.journal import note
from etcdlock.libvirt.status import parse_status
from etcdlock.model import DomainId


class Arrivals:
    """Told by the status files in `folder`, one for each guest that libvirt runs."""

    def __init__(self, folder: Path, /) -> None:
        self._folder = folder

    def arrives(self, pid: int, domain: DomainId, /) -> bool:
        """Whether this process takes the domain in from another host."""
        file = self._folder / f"{domain.name}.xml"
        try:
            with file.open("rb") as opened:
                status = parse_status(opened.read(LARGEST_STATUS), source=str(file))
        except (OSError, ValueError, InvalidDomainXml) as error:  # ValueError: a name that no file can have
            note("arrival_not_told", level=logging.WARNING, domain=domain, pid=pid, file=file, error=error)
            return False
        return status.pid == pid and status.xml.domain.uuid == domain.uuid and status.migrates_in
