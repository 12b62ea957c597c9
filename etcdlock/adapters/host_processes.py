"""Guests that others start on this host, as `ports.Processes`: found by pid, named for good by pid and start time.

Guaranteed: a signal reaches the process that was found and no other, though its pid be used again. Not guaranteed:
anything about processes that it has started; those are its host's virtualization program's to end.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from etcdlock.errors import NoSuchGuest
from etcdlock.guard import table
from etcdlock.model import DomainId, Resource
from etcdlock.ports import ExitStatus, Guest

_THREADS = 8
_LOOK_WITHIN_SECONDS = 1.0
_MOST_LOOKS = 10


class FoundGuest:
    """A process that others have started."""

    def __init__(self, name: table.Name, pidfd: int, /) -> None:
        self._name = name
        self._pidfd = pidfd

    def __del__(self) -> None:
        os.close(self._pidfd)

    @property
    def pid(self) -> int:
        """As this host sees it."""
        return self._name.pid

    @property
    def pid_start(self) -> int:
        """In clock ticks since boot."""
        return self._name.start

    @property
    def pidfd(self) -> int:
        """Ours, open for as long as this guest is known."""
        return self._pidfd

    def open_gate(self, *, token: int) -> None:
        """Whoever started it lets it run."""

    def signal(self, number: int, /) -> None:
        """To this very process; without effect once it is gone."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    def kill(self) -> None:
        """SIGKILL."""
        self.signal(signal.SIGKILL)

    async def gone(self) -> ExitStatus:
        """Wait until the process has ended. How, only its parent is told."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        watched = os.dup(self._pidfd)  # a loop watches a descriptor once, and several may wait
        try:
            loop.add_reader(watched, ended.set)
            await ended.wait()
        finally:
            loop.remove_reader(watched)
            os.close(watched)
        return ExitStatus(0)


class HostProcesses:
    """This host's processes. `arrives` says of a pid and its domain whether a migration brings it here: QEMU is started
    with -incoming for a restored guest, too. Without it none is taken for one that does.

    What may have to wait for a file server that is dead is done in threads of its own, and not waited for beyond a
    bound: whoever asks keeps a session alive.
    """

    def __init__(
        self,
        *,
        arrives: Callable[[int, DomainId], bool] | None = None,
        look: Callable[[int, Resource], bool] | None = None,
    ) -> None:
        self._arrives = arrives
        self._look = look or has_open
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="guest-files")
        self._mark_threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="guest-marks")

    def attach(self, pid: int, /) -> FoundGuest:
        """The process that has this pid now. Raises `NoSuchGuest`."""
        process = table.look_up(pid) if pid > 0 else None
        pidfd = table.open_pidfd(process.name) if process is not None and process.alive else None
        if process is None or pidfd is None:
            raise NoSuchGuest(f"there is no process {pid} on this host")
        return self._found(process, pidfd)

    def _found(self, process: table.Process, pidfd: int, /) -> FoundGuest:
        from etcdlock.adapters.gated import GatedGuest, is_gated  # which is made of what is here

        if is_gated(process):
            return GatedGuest(process.name, pidfd, threads=self._mark_threads)
        return FoundGuest(process.name, pidfd)

    async def awaits_migration(self, guest: Guest, domain: DomainId, /) -> bool:
        """Whether QEMU was started with -incoming, and for a migration."""
        if self._arrives is None or not _waits_for_its_memory(guest.pid):
            return False
        return self._arrives(guest.pid, domain)

    async def has_open(self, guest: Guest, resource: Resource, /) -> bool:
        """Whether one of its descriptors is the file or device that the resource names; what cannot be told soon is
        taken for open.
        """
        looking = asyncio.get_running_loop().run_in_executor(self._threads, self._look, guest.pid, resource)
        try:
            return await asyncio.wait_for(looking, _LOOK_WITHIN_SECONDS)
        except TimeoutError:
            return True


def _waits_for_its_memory(pid: int, /) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(argument in (b"-incoming", b"--incoming") for argument in arguments)


def has_open(pid: int, resource: Resource, /) -> bool:
    """Whether the process has it open.

    Told by file system and inode, or by device number, since libvirt may show a guest its devices under names of its
    own. A resource known only by a digest is compared by the digest of the descriptors' paths. Where neither can be
    said (an LVM or SCSI id), it counts as open: a guest that has stopped is parked, and nothing is given away.

    QEMU opens an image anew and closes the old descriptor when its rights change, as at the end of a migration. So
    "not open" is said only of descriptors that stayed the same while they were looked at.
    """
    if not resource.path and len(resource.name) != hashlib.sha256().digest_size * 2:
        return True
    means = partial(_same_file, path=resource.path) if resource.path else partial(_has_digest, digest=resource.name)
    before = _descriptors(pid)
    for _ in range(_MOST_LOOKS):
        if any(means(link) for link in before):
            return True
        after = _descriptors(pid)
        if after == before:
            return False
        before = after
    return True


def _descriptors(pid: int, /) -> dict[Path, str]:
    """All of a process and where each leads; none if it is gone."""
    try:
        return {link: _target(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return {}


def _same_file(link: Path, *, path: str) -> bool:
    try:
        opened, named = link.stat(), Path(path).stat()
    except OSError:
        return _target(link) == path
    if opened.st_rdev or named.st_rdev:
        return opened.st_rdev == named.st_rdev
    return os.path.samestat(opened, named)


def _has_digest(link: Path, *, digest: str) -> bool:
    return hashlib.sha256(os.fsencode(_target(link))).hexdigest() == digest


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""
