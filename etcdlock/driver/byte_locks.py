"""Locks on single bytes of one file: open-file-description locks, which the kernel drops with the last descriptor.

An open file description is one holder, however many processes have descriptors of it; it may take and drop bytes at any
time, through any of them. A resource is the byte at an offset that is made of its name: two names on one byte would
only refuse once too often, which with 62 bits does not happen.

Guaranteed: what the kernel and the file system guarantee of such locks, no more. On a network file system both hosts
must mount it with locks that work between hosts.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct

# struct flock of 64-bit Linux: type, whence, start, length, pid (0 for these locks)
_FLOCK = struct.Struct("hhqqi4x")
_BITS = 62


def offset_of(lockspace: str, name: str, /) -> int:
    """The byte that stands for a resource."""
    digest = hashlib.sha256(f"{lockspace}\0{name}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _BITS)


def take(descriptor: int, offset: int, /, *, shared: bool) -> bool:
    """Lock the byte, or change how it is locked; False if another holder is in the way. Raises OSError otherwise."""
    kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, offset, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def drop(descriptor: int, offset: int, /) -> None:
    """Unlock the byte."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, offset, 1, 0))


def is_held(descriptor: int, offset: int, /, *, shared: bool = False) -> bool:
    """Whether another description is in the way of such a lock: of an exclusive one all that have any are."""
    kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
    asked = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _FLOCK.pack(kind, os.SEEK_SET, offset, 1, 0))
    return bool(_FLOCK.unpack(asked)[0] != fcntl.F_UNLCK)
