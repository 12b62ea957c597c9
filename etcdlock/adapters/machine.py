"""What tells this machine and this boot of it from all others, and what people call it.

The machine's digest lets other hosts recognise it without learning its serial numbers. It is of two ids together,
since either alone may be shared: clones of one disk image have one machine-id, cheap boards one placeholder for a UUID.
Where one of the two cannot be read (the UUID is for root only) or is such a placeholder, the digest is empty and proves
nothing to anybody.
"""

from __future__ import annotations

import hashlib
import re
import socket
from pathlib import Path

from etcdlock.model import Machine

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MACHINE_ID = Path("/etc/machine-id")
_PRODUCT_UUID = Path("/sys/class/dmi/id/product_uuid")

_PID_NAMESPACE = Path("/proc/self/ns/pid")

_ID = re.compile("[0-9a-f]{32}")
_REPEATED = re.compile(r"(..)\1*")
"""One byte over and over: what a vendor leaves who sets nothing."""

_PLACEHOLDERS = frozenset(
    (
        "03000200040005000006000700080009",
        "00020003000400050006000700080009",
        "12345678123412341234123456789abc",
        "12345678123456781234567812345678",
        "123456781234567890abcddeefaabbcc",
        "0123456789abcdef0123456789abcdef",
        "00112233445566778899aabbccddeeff",
        "4c4c454400002010802080c04f202020",
    )
)
"""UUIDs that vendors have shipped on many a board: counted up, the firmware maker's default in both byte orders, a
blank service tag."""


def read_machine(
    *, boot_id: Path = _BOOT_ID, machine_id: Path = _MACHINE_ID, product_uuid: Path = _PRODUCT_UUID
) -> Machine:
    """This boot of this machine. Raises OSError where the kernel does not tell its boot id."""
    ids = [_read_id(source) for source in (machine_id, product_uuid)]
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest() if all(ids) else ""
    return Machine(boot=boot_id.read_text(encoding="ascii").strip(), machine=digest)


def default_host_id() -> str:
    """The host's own name, without its domain."""
    return socket.gethostname().partition(".")[0]


def pid_namespace() -> str:
    """By which numbers this program knows processes: two that have the same one mean the same by a pid."""
    return str(_PID_NAMESPACE.readlink())


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


def _read_id(path: Path) -> str:
    """Its 32 hexadecimal digits; nothing where it tells this machine from no other."""
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip().lower().replace("-", "")
    except OSError:        # absent, or for root only
        return ""
    is_placeholder = text in _PLACEHOLDERS or _REPEATED.fullmatch(text)
    return text if _ID.fullmatch(text) and not is_placeholder else ""
