"""What a disk is called: two hosts that mean the same disk must arrive at the same name.

Everything here is text in, text out; no file is looked at. What that gives and what not:

* Spellings that differ only in slashes, `.`, the case of a host name or a default port get one name.
* `..` is refused, not resolved: behind a symbolic link the text does not tell where it leads.
* What lies below a folder that every host has for itself is called after its host: it is another file elsewhere.
* A symbolic link, a second mount point, or a disk reached by two protocols has two names: these are different texts.
* Where a name must be too wide or too narrow, it is too wide: two disks that share a name are refused once too often,
  one disk with two names is destroyed.

A path is bytes without NUL. Bytes that are not UTF-8 travel as surrogate escapes, the way `sys.argv` and
`os.fsdecode` give them; digests are made over the bytes.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from etcdlock.errors import InvalidInput
from etcdlock.model import Mode, Resource

PATH_LOCKSPACE: Final = "path"
_HOSTS_LOCKSPACE: Final = "host/"
MD5_LOCKSPACE: Final = "__LIBVIRT__DISKS__"
VOLUME_LOCKSPACE: Final = "volume"

# PATH_MAX is 4096 and counts the final NUL.
_PATH_MAX_BYTES: Final = 4095


class DiskIdentity(StrEnum):
    """The cluster-wide rule by which a path becomes a name."""

    PATH = "path"
    MD5 = "md5"


@dataclass(frozen=True, slots=True, order=True)
class ResourceName:
    """What a resource is called on every host."""

    lockspace: str
    name: str

    def __str__(self) -> str:
        return escaped(f"{self.lockspace}:{self.name}")


def escaped(text: str, /) -> str:
    """The text as a person may see it: control characters, line breaks and undecodable bytes as backslash escapes."""
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def _escape(character: str, /) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


# --- paths ---


def normal_path(path: str, /) -> str:
    """The absolute path with single slashes and without `.`; raises `InvalidInput` for what names no file safely."""
    if "\0" in path:
        raise InvalidInput(f"the path '{escaped(path)}' contains a NUL character, which no file name can")
    if not path.startswith("/"):
        raise InvalidInput(
            f"the path '{escaped(path)}' is not absolute",
            hint="write it from the root of the file system; relative paths mean another file on every host",
        )
    if len(path_bytes(path)) > _PATH_MAX_BYTES:
        raise InvalidInput(f"the path '{escaped(path[:40])}…' is longer than {_PATH_MAX_BYTES} bytes")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidInput(
            f"the path '{escaped(path)}' contains '..', which symbolic links can lead anywhere",
            hint="write the path that `realpath` prints",
        )
    return "/" + "/".join(parts)


def path_bytes(path: str, /) -> bytes:
    """The bytes that the kernel would see."""
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the path '{escaped(path)}' contains half of a surrogate pair, not a byte") from error


def identify_path(path: str, /, *, rule: DiskIdentity) -> ResourceName:
    """The name of a file, block device or folder.

    Under `MD5` it is what libvirt's sanlock plug-in calls the same path. That plug-in hashes every spelling as it
    stands; here the normal form is hashed, or `/a//b` and `/a/b` would be two disks.
    """
    normal = normal_path(path)
    if rule is DiskIdentity.PATH:
        return ResourceName(PATH_LOCKSPACE, normal)
    digest = hashlib.md5(path_bytes(normal), usedforsecurity=False).hexdigest()
    return ResourceName(MD5_LOCKSPACE, digest)


@dataclass(frozen=True, slots=True)
class Naming:
    """How the host `host` names paths: by the cluster's rule, and what it has for itself after itself.

    `local_folders` are the same on every host, absolute, and what lies below them is another file on each.
    """

    rule: DiskIdentity = DiskIdentity.PATH
    host: str = ""
    local_folders: tuple[str, ...] = ()

    def __call__(self, path: str, /) -> ResourceName:
        """The name of a file, block device or folder."""
        normal = normal_path(path)
        if any(_lies_below(normal, normal_path(folder)) for folder in self.local_folders):
            return ResourceName(local_lockspace(self.host), normal)
        return identify_path(normal, rule=self.rule)


def local_lockspace(host: str, /) -> str:
    """In which a host's own files are named; no path and no protocol is called so."""
    return _HOSTS_LOCKSPACE + host


def stays_behind(resource: Resource, /, *, host: str) -> bool:
    """Whether it is another host's own file, which does not come along when its guest migrates to `host`."""
    return resource.lockspace.startswith(_HOSTS_LOCKSPACE) and resource.lockspace != local_lockspace(host)


def check_local_folder(folder: str, /) -> str:
    """Its normal form. Raises `InvalidInput` for one that cannot be meant."""
    normal = normal_path(folder)
    if normal == "/":
        raise InvalidInput("'/' cannot be a folder that every host has for itself: no disk would be shared any more")
    return normal


def _lies_below(path: str, folder: str) -> bool:
    """By components: `/a/bc` does not lie below `/a/b`."""
    return path.startswith(f"{folder}/")


def identify_lease(key: str, /, *, target: str, lockspace: str) -> ResourceName:
    """The name of an explicit `<lease>`; libvirt's lockd plug-in sends the same pair, "target/lockspace" and key."""
    if not key or not lockspace:
        raise InvalidInput("a lease needs both a key and a lockspace")
    if "\0" in key:
        raise InvalidInput("a lease's key cannot contain a NUL character")
    return ResourceName(normal_path(f"{normal_path(target)}/{lockspace}"), key)


def identify_volume(volume: str, /, *, pool: str) -> ResourceName:
    """The name of a volume of a libvirt storage pool: only as good as the pool's name, which each host chooses."""
    if not volume or not pool or "/" in pool:
        raise InvalidInput(f"'{escaped(pool)}' and '{escaped(volume)}' do not name a storage pool and a volume in it")
    return ResourceName(VOLUME_LOCKSPACE, f"{pool}/{volume}")


# --- network disks ---

# Protocols whose storage is one cluster behind any number of servers: the servers are ways to it, not its name.
_NAMED_WITHOUT_HOST: Final = frozenset({"rbd", "gluster", "iscsi", "sheepdog", "vxhs"})

_DEFAULT_PORTS: Final = {
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
        return any(host.socket or _is_loopback(host.name) for host in self.hosts)


def identify_network(source: NetworkSource, /) -> ResourceName:
    """The name of a network disk; the lockspace is the protocol. Raises `InvalidInput` if it cannot be told."""
    if source.protocol in _NAMED_WITHOUT_HOST:
        return ResourceName(source.protocol, _name_without_host(source))
    if source.protocol in _DEFAULT_PORTS:
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
    server = f"{_host_name(host.name)}:{_port(host.port, default=_DEFAULT_PORTS[source.protocol])}"
    if source.protocol == "nbd":  # an export's name is any text: "/a" and "a" are two
        return f"{server}/{source.image}"
    if source.protocol in ("nfs", "ssh"):
        return server + normal_path(f"/{source.image}")
    query = f"?{source.query}" if source.query else ""
    return f"{server}/{source.image.removeprefix('/')}{query}"


def _host_name(text: str) -> str:
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


def _is_loopback(text: str) -> bool:
    address = _address(text)
    return text.lower().rstrip(".") == "localhost" if address is None else address.is_loopback


def _port(text: str, *, default: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536):
        raise InvalidInput(f"'{escaped(text)}' is not a port")
    return int(text)


# --- what a domain wants, all together ---


@dataclass(frozen=True, slots=True)
class Named:
    """A resource, and what a person calls the place where it was asked for: "disk vda", "--disk /a"."""

    called: str
    resource: Resource


def distinct(wanted: Iterable[Named], /) -> tuple[Resource, ...]:
    """The resources without repetition, in the order given.

    Twice the same one is fine where nobody writes alone: then the stronger mode stands. Otherwise `InvalidInput`: a
    domain that opens one disk twice destroys it all by itself.
    """
    found: dict[tuple[str, str], Named] = {}
    for new in wanted:
        key = (new.resource.lockspace, new.resource.name)
        old = found.setdefault(key, new)
        if old is new:
            continue
        if Mode.EXCLUSIVE in (old.resource.mode, new.resource.mode):
            raise InvalidInput(
                f"{old.called} ({old.resource.mode}) and {new.called} ({new.resource.mode})"
                f" are the same resource, '{escaped(str(new.resource))}'",
                hint="name it once; or mark both as shared or read-only if that is what they are",
            )
        if new.resource.mode is Mode.SHARED:
            found[key] = replace(old, resource=replace(old.resource, mode=Mode.SHARED))
    return tuple(entry.resource for entry in found.values())


# --- the command line's --disk ---


@dataclass(frozen=True, slots=True)
class DiskArgument:
    """A disk as given on a command line; the path may still be relative."""

    path: str
    mode: Mode


_MODE_SUFFIXES: Final = {
    "exclusive": Mode.EXCLUSIVE,
    "shared": Mode.SHARED,
    "readonly": Mode.READ_ONLY,
    "read-only": Mode.READ_ONLY,
}

# What somebody writes who means a mode: taken as part of the path it would lock a disk that nobody uses.
_NEARLY_MODES: Final = frozenset(
    {*_MODE_SUFFIXES, "ro", "rw", "ex", "excl", "sh", "share", "sharable", "shareable"}
    | {"read", "read_only", "rdonly", "readwrite", "read-write", "write"}
)


def parse_disk_argument(argument: str, /) -> DiskArgument:
    """`PATH`, `PATH:shared`, `PATH:readonly` or `PATH:exclusive`.

    Only these words count as a mode, so a path may contain colons. One that ends in `:shared` is given as
    `…:shared:exclusive`.
    """
    head, colon, tail = argument.rpartition(":")
    mode = _MODE_SUFFIXES.get(tail) if colon else None
    if colon and mode is None and tail.lower() in _NEARLY_MODES:
        raise InvalidInput(
            f"--disk '{escaped(argument)}': '{tail}' is not a mode; the modes are shared, readonly and exclusive",
            hint=f"if the path itself ends in ':{tail}', write '{escaped(argument)}:exclusive'",
        )
    path = argument if mode is None else head
    if not path or "\0" in path:
        raise InvalidInput(f"--disk '{escaped(argument)}' names no disk", hint="write PATH[:shared|:readonly]")
    return DiskArgument(path, mode or Mode.EXCLUSIVE)


def with_readonly_rule(resources: tuple[Resource, ...], /, *, rule: str) -> tuple[Resource, ...]:
    """What read-only disks take under the cluster's rule: `none` no lock at all, `shared` a shared one."""
    if rule != "shared":
        return resources
    return tuple(replace(item, mode=Mode.SHARED) if item.mode is Mode.READ_ONLY else item for item in resources)
