"""What a file is called: after the file system that it lies in and its path there, wherever that is mounted.

A file system that several hosts mount is called alike on all of them; what only this host can reach is called after
this boot of it, so that equal paths of two hosts never meet. A boot, not a host id: two agents of one kernel, and all
its containers, mean the same file.

A file with several names (hard links) is called by its inode, which is the same whichever of them is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from etcdlock.diskfacts import Kind, Mount, Place
from etcdlock.errors import NotIdentified
from etcdlock.identity.devices import identify_device
from etcdlock.identity.network import DEFAULT_PORTS, host_name, is_loopback
from etcdlock.identity.paths import normal_path
from etcdlock.identity.words import Identified, ResourceName, escaped

_LOCAL: Final = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "f2fs", "jfs", "reiserfs", "nilfs2", "zfs", "tmpfs", "ramfs"}
    | {"devtmpfs", "hugetlbfs", "overlay", "aufs", "vfat", "exfat", "msdos", "ntfs", "ntfs3", "fuseblk", "udf"}
    | {"squashfs", "erofs", "minix", "hfsplus", "rootfs", "iso9660"}
)
_BY_SERVER: Final = re.compile(r"(?P<server>\[[^\]]+\]|[^:]+):(?P<path>/.*)")
_CLUSTER: Final = frozenset({"gfs2", "ocfs2"})
_ONLY_DELETED: Final = "//deleted"


@dataclass(frozen=True, slots=True)
class _Home:
    """A file system: its lockspace, what its name begins with, and which of its folders is mounted."""

    lockspace: str
    prefix: str
    folder: str
    warning: str = ""
    ignores_case: bool = False


_DENIED = "Permission denied"
_BY_OTHERS = "this user may not look there: ask as root, or through the agent"


def identify_place(place: Place, /, *, here: str) -> Identified:
    """The name of what is there. `here` is the lockspace of what only this host can reach. Raises `NotIdentified`."""
    if place.kind is Kind.ABSENT:
        raise NotIdentified(
            f"'{escaped(place.path)}' could not be looked at: {place.error}",
            hint=_BY_OTHERS if place.error == _DENIED else "mount or connect it on this host, where it is to be used",
        )
    if place.kind is Kind.CHARACTER:
        return Identified(ResourceName(here, f"character {place.number}"), "local", ("a character device",))
    if place.kind is not Kind.BLOCK:
        return _file(place, here=here)
    if place.device is None:
        raise NotIdentified(f"the block device '{escaped(place.path)}' ({place.number}) is not in sysfs")
    return identify_device(place.device, of_place=lambda file: identify_place(file, here=here), here=here)


def _file(place: Place, *, here: str) -> Identified:
    mount = place.mount
    if mount is None or _ONLY_DELETED in mount.root or not _lies_in(place.real, mount.point):
        raise NotIdentified(f"'{escaped(place.path)}' lies in no file system that could be found")
    home = _home(mount, here=here)
    inside = normal_path(f"{home.folder}/{place.real[len(mount.point.rstrip('/')):]}")
    inside = inside.casefold() if home.ignores_case else inside
    told = (
        f"{place.kind} {escaped(place.real)}",
        f"in {mount.kind} {escaped(mount.source)}, of which {escaped(mount.root)} is mounted at {escaped(mount.point)}",
    )
    if place.kind is Kind.FILE and place.links > 1:
        name = ResourceName(home.lockspace, f"{home.prefix}#inode={place.inode}")
        warning = f"the file has {place.links} names (hard links): it is called by its inode, and none may be removed"
        return Identified(name, mount.kind, (*told, f"inode {place.inode}"), warning)
    return Identified(ResourceName(home.lockspace, home.prefix + inside), mount.kind, told, home.warning)


def _lies_in(path: str, point: str) -> bool:
    return path == point or path.startswith(f"{point.rstrip('/')}/")


def _home(mount: Mount, *, here: str) -> _Home:
    if mount.kind in _LOCAL:
        return _Home(here, mount.device, mount.root)
    if mount.kind in _CLUSTER:
        return _by_uuid(mount)
    known = _KNOWN.get(mount.kind)
    if known is not None:
        return known(mount)
    if mount.kind.startswith("fuse.") and re.search(r"[:@#]|//", mount.source):
        warning = f"{mount.kind} is known by what it was mounted from alone: '{escaped(mount.source)}' on every host"
        return _Home(mount.kind, mount.source, mount.root, warning)
    raise _unknown(mount)


def _unknown(mount: Mount) -> NotIdentified:
    return NotIdentified(
        f"of the file system at '{escaped(mount.point)}' ({escaped(mount.kind)} from '{escaped(mount.source)}') it"
        " cannot be told whether other hosts have it, and what they call it",
        hint='if a path in it means the same file on every host: unidentified_disks = "path"',
    )


def _by_uuid(mount: Mount) -> _Home:
    if not mount.uuid:
        raise NotIdentified(f"the UUID of the {mount.kind} file system at '{escaped(mount.point)}' could not be read")
    return _Home(mount.kind, mount.uuid.lower(), mount.root)


def _nfs(mount: Mount) -> _Home:
    """The kernel shows the mounted folder in the source, for mounts of subdirectories and of bind mounts as well."""
    found = _BY_SERVER.fullmatch(mount.source)
    if found is None:
        raise _unknown(mount)
    port = re.search(r"(?:^|,)port=([1-9]\d*)", mount.options)
    server = f"{host_name(found['server'])}:{port[1] if port else DEFAULT_PORTS['nfs']}"
    warning = f"its server, {found['server']}, is another one on every host" if is_loopback(found["server"]) else ""
    return _Home("nfs", server, f"{found['path']}/{mount.root}", warning)


def _cifs(mount: Mount) -> _Home:
    """Whether the server tells upper from lower case is not known; so they count as the same."""
    parts = [part for part in mount.source.replace("\\", "/").casefold().split("/") if part]
    if len(parts) < 2:
        raise _unknown(mount)
    server, share, *folder = parts
    inside, root = "/" + "/".join(folder), mount.root.casefold()
    there = root if _lies_in(root, inside) else f"{inside}/{root}"
    return _Home("smb", f"//{host_name(server)}/{share}", there, ignores_case=True)


def _ceph(mount: Mount) -> _Home:
    """Without its monitors, of which each host may know others: as rbd images are named."""
    path = re.search(r"(?:=|:)(/.*)", mount.source)
    return _Home("ceph", "", f"{path[1] if path else '/'}/{mount.root}")


def _gluster(mount: Mount) -> _Home:
    """Without the server, and like a volume that QEMU itself opens."""
    volume, _, folder = mount.source.rpartition(":")[2].lstrip("/").partition("/")
    if not volume:
        raise _unknown(mount)
    return _Home("gluster", volume, f"/{folder}/{mount.root}")


def _sshfs(mount: Mount) -> _Home:
    user_and_host, _, path = mount.source.partition(":")
    user, at, host = user_and_host.rpartition("@")
    server = f"{host_name(host)}:{DEFAULT_PORTS['ssh']}"
    if path.startswith("/"):
        return _Home("ssh", server, f"{path}/{mount.root}")
    home = f"~{user}" if at else "~"
    return _Home("ssh", server, f"/{home}/{path}/{mount.root}", "it is mounted from a home folder: name it by its path")


def _lustre(mount: Mount) -> _Home:
    name, _, folder = mount.source.rpartition(":/")[2].partition("/")
    return _Home("lustre", name, f"/{folder}/{mount.root}")


_KNOWN: Final[dict[str, Callable[[Mount], _Home]]] = {
    "nfs": _nfs,
    "nfs4": _nfs,
    "cifs": _cifs,
    "smb3": _cifs,
    "ceph": _ceph,
    "fuse.glusterfs": _gluster,
    "fuse.sshfs": _sshfs,
    "lustre": _lustre,
    "gpfs": lambda mount: _Home("gpfs", mount.source.removeprefix("/dev/"), mount.root),
    "beegfs": lambda mount: _Home("beegfs", "", mount.root),
}
