"""A file system of its own on a loop device: it can be frozen, or be full, and none of this machine's is touched."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from tests.libvirt.loop import LoopDevice, attach

MOUNTED_AT: Final = "/mnt"
"""Where machines have theirs; each has mounts of its own."""
MOUNT: Final = f'mount "$1" {MOUNTED_AT}\n'
"""Shell code for a machine's setup, given `Volume.node`."""


class Volume:
    """An ext4 in a file. Several machines may mount it: within one kernel it stays one file system."""

    def __init__(self, file: Path, *, megabytes: int) -> None:
        with file.open("xb") as opened:
            opened.truncate(megabytes * 2**20)
        done = subprocess.run(
            ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1", str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        self._file = file
        self._device: LoopDevice = attach(file)

    @property
    def node(self) -> str:
        """The device, under /dev of all machines."""
        return str(Path(f"/proc/self/fd/{self._device.descriptor}").readlink())

    def close(self) -> None:
        """The device goes with the last mount of it."""
        self._device.close()
        self._file.unlink()
