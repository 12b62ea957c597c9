"""Reaches the descriptor by which a guest holds its locks, from a program that did not start it or was started anew.

The guest inherited it, and so holds its locks itself: they last exactly as long as a process has it open. To change
them from outside, the kernel is asked for another descriptor of the same open file (`pidfd_getfd`, Linux 5.6), which
takes the right to trace the guest.
"""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import suppress
from pathlib import Path

from etcdlock.driver import byte_locks
from etcdlock.errors import NoSuchGuest, NotLocked, NotPermitted
from etcdlock.model import Resource

_PIDFD_GETFD = 438
"""The same number on every architecture. Python has no name for it."""
_LOOK_WITHIN_SECONDS = 1.0


def borrowed(pid: int, /, *, file: Path, offset: int) -> int:
    """Another descriptor of the open file by which the process holds the byte at `offset`. The caller closes it.

    Raises `NoSuchGuest`, `NotLocked` where it holds no such thing, `NotPermitted` where it may not be reached.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise NoSuchGuest(f"there is no process {pid} on this host") from None
    try:
        for number in _open_as(pid, file):
            descriptor = _another(pidfd, number)
            if descriptor >= 0 and _holds(descriptor, file, offset):
                return descriptor
            if descriptor >= 0:
                os.close(descriptor)
    except PermissionError as error:
        raise NotPermitted(
            f"process {pid} cannot be reached to change its locks: {error.strerror}",
            hint="be root, or its parent (kernel.yama.ptrace_scope)",
        ) from error
    finally:
        os.close(pidfd)
    raise NotLocked(f"process {pid} holds no lock of this driver for that domain")


def _open_as(pid: int, file: Path, /) -> list[int]:
    wanted = file.stat()
    found = []
    with suppress(FileNotFoundError):  # it is gone
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if link.readlink().name != file.name:  # of a disk on a dead file server no more than this is asked
                    continue
                seen = link.stat()
                if (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino):
                    found.append(int(link.name))
    return found


def _another(pidfd: int, number: int, /) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.syscall(_PIDFD_GETFD, pidfd, number, 0))
    error = ctypes.get_errno()
    if descriptor < 0 and error not in (9, 3):  # EBADF, ESRCH: closed, or gone, meanwhile
        raise PermissionError(error, os.strerror(error))
    return descriptor


def _holds(descriptor: int, file: Path, offset: int, /) -> bool:
    """Somebody holds the byte, and to this open file nobody else does."""
    fresh = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        return byte_locks.is_held(fresh, offset) and not byte_locks.is_held(descriptor, offset)
    finally:
        os.close(fresh)


def may_have_open(pid: int, resource: Resource, /) -> bool:
    """Whether the process has it open. A file server that is dead does not say: after a second that counts as yes."""
    from etcdlock.adapters.host_processes import has_open

    told: list[bool] = []
    looking = threading.Thread(target=lambda: told.append(has_open(pid, resource)), name="guest-files", daemon=True)
    looking.start()
    looking.join(_LOOK_WITHIN_SECONDS)
    return told[0] if told else True
