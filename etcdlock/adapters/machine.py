"""What tells this machine and this boot of it from all others, and what people call it.

The machine's digest lets other hosts recognise it without learning its serial numbers. Where neither source can be read the
digest is of nothing, and equal on all such machines: `Machine.machine` is then empty, which proves nothing to anybody.
"""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

from etcdlock.model import Machine

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MACHINE_SOURCES = (Path("/etc/machine-id"), Path("/sys/class/dmi/id/product_uuid"))


def read_machine(*, boot_id: Path = _BOOT_ID, sources: tuple[Path, ...] = _MACHINE_SOURCES) -> Machine:
    """This boot of this machine. Raises OSError where the kernel does not tell its boot id."""
    facts = [_read(source) for source in sources]
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest() if any(facts) else ""
    return Machine(boot=boot_id.read_text(encoding="ascii").strip(), machine=digest)


def default_host_id() -> str:
    """The host's own name, without its domain."""
    return socket.gethostname().partition(".")[0]


def source_address(host: str, *, port: int) -> str:
    """The address of this host that people can reach it by: the one it uses towards `host`; else its name.

    Asks the routing table and sends nothing, unless `host` is a name that has to be looked up.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip().lower()
    except OSError:        # absent, or for root only
        return ""
