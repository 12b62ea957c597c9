"""Disks reached through a protocol of QEMU's, named from the words of the domain XML alone.

Spellings that differ only in slashes, the case of a host name or a default port get one name.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from etcdlock.errors import InvalidInput
from etcdlock.identity.paths import normal_path
from etcdlock.identity.words import ResourceName, escaped

# Protocols whose storage is one cluster behind any number of servers: the servers are ways to it, not its name.
_NAMED_WITHOUT_HOST: Final = frozenset({"rbd", "gluster", "iscsi", "sheepdog", "vxhs"})

DEFAULT_PORTS: Final = {
    "nbd": 10809,
    "nfs": 2049,
    "ssh": 22,
    "http": 80,
    "https": 443,
    "ftp": 21,
    "ftps": 990,
    "tftp": 69,
}

_HOST_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")


@dataclass(frozen=True, slots=True)
class NetworkHost:
    """A server of a network disk; `socket` is set where it is a Unix socket, then name and port mean nothing."""

    name: str
    port: str = ""
    socket: str = ""


@dataclass(frozen=True, slots=True)
class NetworkSource:
    """A disk reached through a protocol of QEMU's, with the words of the domain XML."""

    protocol: str
    image: str
    hosts: tuple[NetworkHost, ...] = ()
    snapshot: str = ""
    query: str = ""

    @property
    def means_this_host(self) -> bool:
        """True where the server is a Unix socket or a loopback address: the same text is another server elsewhere."""
        if self.protocol in _NAMED_WITHOUT_HOST:
            return False
        return any(host.socket or is_loopback(host.name) for host in self.hosts)


def identify_network(source: NetworkSource, /) -> ResourceName:
    """The name of a network disk; the lockspace is the protocol. Raises `InvalidInput` if it cannot be told."""
    if source.protocol in _NAMED_WITHOUT_HOST:
        return ResourceName(source.protocol, _name_without_host(source))
    if source.protocol in DEFAULT_PORTS:
        return ResourceName(source.protocol, _name_with_host(source))
    raise InvalidInput(
        f"disks over the protocol '{escaped(source.protocol)}' are unknown, so this one cannot be named",
        hint="leave the disk out of the XML given to etcdlock and describe it by a <lease>",
    )


def _name_without_host(source: NetworkSource) -> str:
    container, slash, rest = source.image.partition("/")
    if source.protocol == "iscsi":
        return _iscsi_name(container, lun=rest or "0")
    if source.protocol in ("sheepdog", "vxhs"):
        container, slash, rest = source.image, "", "-"
    if not container or not rest or (not slash and source.protocol in ("rbd", "gluster")):
        raise InvalidInput(f"'{escaped(source.image)}' does not name a disk of {source.protocol}")
    if source.protocol == "gluster":
        return container + normal_path(f"/{rest}")
    # A snapshot of an image cannot be written: it is another disk than the image.
    return f"{source.image}@{source.snapshot}" if source.snapshot else source.image


def _iscsi_name(target: str, *, lun: str) -> str:
    """The target's name is unique in the world by its standard; its portals are many, and each host may use another."""
    if not target or not (lun.isascii() and lun.isdecimal() and len(lun) <= 20):
        raise InvalidInput(f"'{escaped(target)}/{escaped(lun)}' does not name an iSCSI target and a LUN")
    return f"{target.lower()}/{int(lun)}"


def _name_with_host(source: NetworkSource) -> str:
    if len(source.hosts) != 1:
        raise InvalidInput(f"a disk over {source.protocol} needs exactly one <host>, this one has {len(source.hosts)}")
    if not source.image and source.protocol != "nbd":
        raise InvalidInput(f"a disk over {source.protocol} needs a name")
    host = source.hosts[0]
    if host.socket:
        return f"unix:{normal_path(host.socket)}:{source.image}"
    server = f"{host_name(host.name)}:{_port(host.port, default=DEFAULT_PORTS[source.protocol])}"
    if source.protocol == "nbd":  # an export's name is any text: "/a" and "a" are two
        return f"{server}/{source.image}"
    if source.protocol in ("nfs", "ssh"):
        return server + normal_path(f"/{source.image}")
    query = f"?{source.query}" if source.query else ""
    return f"{server}/{source.image.removeprefix('/')}{query}"


def host_name(text: str, /) -> str:
    """One form of a server's name or address. Raises `InvalidInput`."""
    address = _address(text)
    if address is not None:
        return f"[{address}]" if address.version == 6 else str(address)
    name = text.lower().rstrip(".")
    if not _HOST_NAME.fullmatch(name):
        raise InvalidInput(f"'{escaped(text)}' is not the name or address of a host")
    return name


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def is_loopback(text: str, /) -> bool:
    """Whether it is another server on every host."""
    address = _address(text)
    return text.lower().rstrip(".") == "localhost" if address is None else address.is_loopback


def _port(text: str, *, default: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536):
        raise InvalidInput(f"'{escaped(text)}' is not a port")
    return int(text)
