"""The cgroup that a guest has for itself: all that is in it is the guest's, whoever has started it, and dies with it.

Which cgroup that is, is told by its name, and only names are known that are given to one virtual machine each:

    machine-qemu\\x2d….scope   systemd-machined's, where libvirt registers its guests
    ….libvirt-qemu            libvirt's own, on a host without machined
    <number>.scope            directly below qemu.slice: Proxmox VE's

Of nested ones the innermost counts, with all that lies below it. Whatever it is called, it is left alone while anything
is in it that must live: this guard, whoever it guards for, process 1, another guest. A cgroup is remembered by its
inode: one that is made anew under its name is another's.

It reads and writes the kernel's own file systems alone.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Iterable, Iterator

from etcdlock.guard import handle
from etcdlock.guard.table import Name, look_up

_OWN = re.compile(r"(?:.*/)?(?:machine-qemu\\x2d[^/]*\.scope|[^/]*\.libvirt-qemu|qemu\.slice/[0-9]+\.scope)(?=/|$)")
_TRIES = 30
KILL_FILE = "cgroup.kill"


def own_part(path: str, /) -> str | None:
    """The part of a cgroup's path that names the one machine it was made for."""
    found = _OWN.match(path)
    return found[0] if found else None


def hierarchies(mountinfo: str, /) -> dict[str, str]:
    """Where the cgroups are that processes are in, by what stands for them in /proc/<pid>/cgroup; version 2 first."""
    found: dict[str, str] = {}
    for line in mountinfo.splitlines():
        mounted, _, kind = line.partition(" - ")
        root, point = mounted.split()[3:5]
        file_system, _, options = kind.split()[:3]
        if root != "/":
            continue
        if file_system == "cgroup2":
            found = {"": point, **found}
        elif file_system == "cgroup" and "name=systemd" in options.split(","):
            found["name=systemd"] = point
    return found


class Cgroups:
    """Of the guests of a guard. `never` are processes that must live, besides this one and process 1."""

    def __init__(self, *, never: Iterable[int], mounts: dict[str, str]) -> None:
        self._never = frozenset({1, os.getpid(), *never})
        self._mounts = mounts
        self._own: dict[Name, tuple[str, int]] = {}
        self._tries: dict[Name, int] = {}

    def find(self, leader: Name, /, *, at_last: bool = False) -> None:
        """Look whether the guest has one, if that is not known. libvirt moves it there only after it has begun to hold
        locks, and moves it no more: so this asks often at first and then only `at_last`.
        """
        tries = self._tries.get(leader, 0)
        if leader in self._own or (tries >= _TRIES and not at_last):
            return
        self._tries[leader] = tries + 1
        for kind, path in _cgroups_of(leader.pid):
            mine = own_part(path)
            if kind not in self._mounts or mine is None or path.startswith("/.."):
                continue
            folder = self._mounts[kind] + mine
            inode = _inode(folder)
            process = look_up(leader.pid)
            if inode and process is not None and process.name == leader:
                self._own[leader] = folder, inode
                return

    def forget(self, leader: Name, /) -> None:
        """It is gone."""
        self._own.pop(leader, None)
        self._tries.pop(leader, None)

    def members(self, leader: Name, /, *, others: Iterable[int]) -> frozenset[int]:
        """Who is in the guest's own cgroup; nobody if it has none, or shares it with somebody who must live."""
        folder, inode = self._own.get(leader, ("", 0))
        if not folder or _inode(folder) != inode:
            return frozenset()
        found = frozenset(_members(folder))
        return frozenset() if found & (self._never | frozenset(others)) else found

    def kill(self, leader: Name, /, *, others: Iterable[int]) -> None:
        """SIGKILL to all of them: at one stroke where the kernel can (5.14), so that nothing born meanwhile escapes."""
        members = self.members(leader, others=others)
        if not members:
            return
        folder = self._own[leader][0]
        try:
            with open(f"{folder}/{KILL_FILE}", "wb", buffering=0) as stream:
                stream.write(b"1")
        except OSError:
            for pid in members:
                self._kill_member(folder, pid)

    def _kill_member(self, folder: str, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            paths = [self._mounts.get(kind, "") + path for kind, path in _cgroups_of(pid)]
            if any(path == folder or path.startswith(f"{folder}/") for path in paths):
                handle.send(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def _cgroups_of(pid: int) -> list[tuple[str, str]]:
    """As /proc/<pid>/cgroup has them: `<number>:<kind>:<path>`."""
    lines = _read(f"/proc/{pid}/cgroup").splitlines()
    return [(kind, path) for _, kind, path in (line.split(":", 2) for line in lines)]


def _members(folder: str) -> Iterator[int]:
    """In it and below. A threaded cgroup names its processes only at the top."""
    yield from map(int, _read(f"{folder}/cgroup.procs").split())
    try:
        below = [entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, PermissionError):
        return
    for each in below:
        yield from _members(each)


def _inode(folder: str) -> int:
    try:
        return os.stat(folder).st_ino
    except OSError:
        return 0


def _read(file: str) -> str:
    """What cannot be read is empty; a kernel out of memory or descriptors is an `OSError`, as in `table`."""
    try:
        with open(file, "rb", buffering=0) as stream:
            return os.fsdecode(stream.readall())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):     # it is being removed; a threaded one
            return ""
        raise
