"""A running guest as libvirt itself remembers it, in the status file that outlives its daemon; pure.

libvirt 9 keeps one for each guest that has a process: <name>.xml in /run/libvirt/qemu for the system, and in
$XDG_RUNTIME_DIR/libvirt/qemu/run for a user. It names the process and holds the whole domain XML as it is now, with
what was plugged in and out since the start.

Not guaranteed: that the process still runs. A guest that ended while libvirt's daemon was away leaves its file.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import tostring

from etcdlock.domainxml import DomainXml, parse_domain, parse_root
from etcdlock.errors import InvalidDomainXml

RUNNING = "running"
MIGRATION_IN = "migration in"
LARGEST_PID = 2**22


@dataclass(frozen=True, slots=True)
class GuestStatus:
    """`state` is libvirt's word: running, paused, shutdown, crashed, …; and `job` for what it does with the guest that
    takes longer: migration in, migration out, save, start, …, empty for nothing.
    """

    pid: int
    state: str
    xml: DomainXml
    job: str = ""
    text: bytes = b""
    """The domain's XML itself."""

    @property
    def migrates_in(self) -> bool:
        """A guest that is restored from a file is in its start."""
        return self.job == MIGRATION_IN


def parse_status(text: bytes | str, /, *, source: str, chains: bool = False) -> GuestStatus:
    """Read one, as `parse_domain` reads what is in it. Raises only `InvalidDomainXml`."""
    root = parse_root(text, tag="domstatus", source=source)
    domain, pid, job = root.find("domain"), root.get("pid", ""), root.find("job")
    if domain is None:
        raise InvalidDomainXml(f"{source}: holds no <domain>")
    if not (pid.isascii() and pid.isdecimal() and 0 < int(pid[:10]) <= LARGEST_PID):
        raise InvalidDomainXml(f"{source}: names no process")
    text = tostring(domain)
    return GuestStatus(
        int(pid),
        root.get("state", ""),
        parse_domain(text, source=source, chains=chains),
        job="" if job is None else job.get("async", ""),
        text=text,
    )
