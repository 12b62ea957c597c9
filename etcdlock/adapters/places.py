"""What is at a path on this host: read from the kernel, with one descriptor that stands for all of it.

The path is opened once, for nothing but its place (O_PATH: no device wakes up, no format is looked at, no rights on the
content are needed); its real path, mount, inode and device are then those of that descriptor, whatever happens to the
path meanwhile. Mounts are those of this process's mount namespace.

Reaching out may take as long as the storage does, and on a file server that is dead for ever: `agent.namer` bounds it.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from etcdlock.adapters.devices import Devices
from etcdlock.diskfacts import Kind, Mount, Place

_BLKID = ("blkid", "-p", "-o", "value", "-s", "UUID")
_BLKID_SECONDS = 3.0
_NEED_A_UUID = frozenset({"gfs2", "ocfs2"})
_MOST_LAYERS = 8


class Places:
    """Looks at `root`'s own kernel. Safe to call from any thread."""

    def __init__(self, *, devices: Devices | None = None) -> None:
        self._devices = devices or Devices()

    def __call__(self, paths: Sequence[str], /) -> tuple[Place, ...]:
        """What is at each of these absolute paths; what cannot be looked at is said, not raised."""
        look = _Look(self._devices)
        return tuple(look.at(path) for path in paths)


class _Look:
    """At many paths at about the same time: the mounts are read once, and again only for one that is new."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._mounts: dict[int, Mount] = {}
        self._text: bytes | None = None

    def at(self, path: str, /, *, depth: int = 0) -> Place:
        try:
            return self._opened(path, depth=depth)
        except FileNotFoundError:
            return self._new(path)
        except OSError as error:
            return _absent(path, error.strerror or str(error))

    def _opened(self, path: str, /, *, depth: int) -> Place:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            real = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - it may be longer than a path object likes
            if stat.S_ISBLK(found.st_mode):
                return self._block(path, real, found, depth=depth)
            if stat.S_ISCHR(found.st_mode):
                return Place(path=path, real=real, kind=Kind.CHARACTER, number=_number(found.st_rdev))
            return Place(
                path=path,
                real=real,
                kind=Kind.FOLDER if stat.S_ISDIR(found.st_mode) else Kind.FILE,
                mount=self._mount_of(descriptor),
                inode=found.st_ino,
                links=1 if stat.S_ISDIR(found.st_mode) else found.st_nlink,
            )
        finally:
            os.close(descriptor)

    def _block(self, path: str, real: str, found: os.stat_result, /, *, depth: int) -> Place:
        number = _number(found.st_rdev)
        device = self._devices.read(number, file_at=lambda file: self._backing(file, depth=depth + 1))
        return Place(path=path, real=real, kind=Kind.BLOCK, number=number, device=device)

    def _backing(self, path: str, /, *, depth: int) -> Place | None:
        return self.at(path, depth=depth) if depth <= _MOST_LAYERS else None

    def _new(self, path: str, /) -> Place:
        """Nothing is there yet. Where it would be, says its folder; a folder of devices holds no files to be."""
        folder, _, name = path.rpartition("/")
        try:
            if os.path.islink(path):  # noqa: PTH114
                return _absent(path, "a symbolic link that leads nowhere")
            there = self._opened(folder or "/", depth=0)
        except OSError as error:
            return _absent(path, "its folder does not exist" if error.errno == 2 else error.strerror or str(error))
        if there.kind is not Kind.FOLDER or there.mount is None or there.mount.kind == "devtmpfs":
            return _absent(path, "there is no such device" if there.mount else "no such file")
        return Place(path=path, real=f"{there.real.rstrip('/')}/{name}", kind=Kind.NEW, mount=there.mount)

    # --- mounts ----------------------------------------------------------------------------------------------------

    def _mount_of(self, descriptor: int, /) -> Mount | None:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as told:  # noqa: PTH123
            found = re.search(r"^mnt_id:\s*(\d+)", told.read(), re.MULTILINE)
        if found is None:
            return None
        number = int(found[1])
        if number not in self._mounts:
            mount = self._line(number, anew=False) or self._line(number, anew=True)
            if mount is None:
                return None
            self._mounts[number] = mount
        return self._mounts[number]

    def _line(self, number: int, /, *, anew: bool) -> Mount | None:
        if self._text is None or anew:
            self._text = b"\n" + Path("/proc/self/mountinfo").read_bytes()
        start = self._text.find(b"\n%d " % number)
        if start < 0:
            return None
        line = self._text[start + 1 : self._text.find(b"\n", start + 1)]
        mount = parse_mount(os.fsdecode(line))
        return self._with_uuid(mount) if mount.kind in _NEED_A_UUID else mount

    def _with_uuid(self, mount: Mount, /) -> Mount:
        uuid = self._devices.udev(mount.device).get("ID_FS_UUID", "") or _superblock_uuid(mount.source)
        return Mount(
            kind=mount.kind,
            source=mount.source,
            root=mount.root,
            point=mount.point,
            device=mount.device,
            options=mount.options,
            uuid=uuid,
        )


def parse_mount(line: str, /) -> Mount:
    """A line of /proc/self/mountinfo."""
    left, _, right = line.partition(" - ")
    _, _, device, root, point, *_ = left.split(" ")
    kind, source, options = [*right.split(" "), "", "", ""][:3]
    return Mount(
        kind=kind, source=_plain(source), root=_plain(root), point=_plain(point), device=device, options=options
    )


def _plain(text: str) -> str:
    """The kernel writes blanks and backslashes as octal numbers."""
    if "\\" not in text:
        return text
    escaped = os.fsencode(text)
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 0xFF]), escaped))


def _superblock_uuid(device: str) -> str:
    """As `blkid` reads it from the disk itself, where udev has not noted it."""
    try:
        told = subprocess.run(  # noqa: S603
            (*_BLKID, device), capture_output=True, text=True, timeout=_BLKID_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip()


def _absent(path: str, error: str) -> Place:
    return Place(path=path, real=path, kind=Kind.ABSENT, error=error)


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"
