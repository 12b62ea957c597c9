"""What a host can see of a disk, as words: read by an adapter, judged by `identity`, and made up freely in tests.

Facts hold for the moment at which they were read, on the host and in the mount namespace of whoever read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What is at a path. NEW: nothing yet, but in a folder that is there. ABSENT: nothing that could be looked at."""

    FILE = "file"
    FOLDER = "folder"
    BLOCK = "block device"
    CHARACTER = "character device"
    NEW = "new file"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A line of /proc/self/mountinfo. `root` is the folder of the file system that is mounted at `point`.

    `uuid` is the file system's own, read only where the kind of file system calls for it.
    """

    kind: str
    source: str
    root: str
    point: str
    device: str
    options: str = ""
    uuid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A block device as sysfs shows it; empty is what it does not have.

    `page83` is the SCSI device identification page. `rbd` is pool, namespace, image and snapshot. A partition has a
    number and the device it is part of; what is made of other devices has them in `lower`; a loop device has the path
    of its file in `backing_file` and, where that leads to this very file, what is there in `backing`.
    """

    number: str
    name: str
    dm_name: str = ""
    dm_uuid: str = ""
    md_uuid: str = ""
    page83: bytes = b""
    wwid: str = ""
    nguid: str = ""
    eui: str = ""
    rbd: tuple[str, str, str, str] | None = None
    partition: int = 0
    whole: Device | None = None
    lower: tuple[Device, ...] = ()
    backing_file: str = ""
    backing: Place | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What is at a path once links are followed. `error` says why nothing could be looked at."""

    path: str
    real: str
    kind: Kind
    mount: Mount | None = None
    inode: int = 0
    links: int = 1
    number: str = ""
    device: Device | None = None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStart:
    """The first bytes of an image, and the folder in which it really is. `error` says why it could not be read."""

    path: str
    folder: str = ""
    content: bytes = b""
    error: str = ""
