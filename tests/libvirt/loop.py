"""Loop devices that are gone when nobody has them open.

The kernel detaches one with its last user, so none is left behind however the tests end.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

_CONTROL = Path("/dev/loop-control")
_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_AUTOCLEAR = 4
_CONFIG = struct.Struct("=II 52x I 176x 64x")
"""struct loop_config: file, block size, and of the struct loop_info64 in it only the flags."""
_TRIES = 50


@dataclass(frozen=True, slots=True)
class LoopDevice:
    """A block device over a file, until it is closed here and by everybody else."""

    descriptor: int

    @property
    def numbers(self) -> tuple[int, int]:
        """Major and minor, by which a node for it can be made anywhere."""
        device = os.fstat(self.descriptor).st_rdev
        return os.major(device), os.minor(device)

    def close(self) -> None:
        os.close(self.descriptor)


def attach(file: Path, /) -> LoopDevice:
    """A loop device of its own for `file`; raises OSError where the kernel gives none."""
    for _ in range(_TRIES):
        device = LoopDevice(_open_free())
        try:
            _configure(device, file=file)
        except OSError as error:
            device.close()
            if error.errno != errno.EBUSY:  # else somebody was quicker
                raise
        else:
            return device
    raise OSError(errno.EBUSY, "no loop device is free")


def _open_free() -> int:
    with _CONTROL.open("rb") as control:
        number = fcntl.ioctl(control, _GET_FREE)
    return os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)


def _configure(device: LoopDevice, *, file: Path) -> None:
    with closing(os.fdopen(os.open(file, os.O_RDWR | os.O_CLOEXEC))) as backing:
        fcntl.ioctl(device.descriptor, _CONFIGURE, _CONFIG.pack(backing.fileno(), 0, _AUTOCLEAR))
