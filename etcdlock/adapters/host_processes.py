"""Guests that others start on this host, as `ports.Processes`: found by pid, named for good by pid and start time.

Guaranteed: a signal reaches the process that was found and no other, though its pid be used again. Not guaranteed:
anything about processes that it has started; those are its host's virtualization program's to end.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from etcdlock.errors import NoSuchGuest
from etcdlock.guard import table
from etcdlock.guard.stillness import Stillness
from etcdlock.journal import note
from etcdlock.model import DomainId, Resource
from etcdlock.ports import ExitStatus, Guest, GuestName

_THREADS = 8
_LOOK_WITHIN_SECONDS = 1.0
_SEARCH_WITHIN_SECONDS = 5.0
_MOST_LOOKS = 10


@dataclass(frozen=True, slots=True)
class _Opened:
    """Where a descriptor leads: its name, its number if it is a device, its file system and inode."""

    target: str
    device: int
    file_system: int
    inode: int


_Descriptors = dict[str, _Opened]


class FoundGuest:
    """A process that others have started."""

    def __init__(self, name: table.Name, pidfd: int, /) -> None:
        self._name = name
        self._pidfd = pidfd
        self._stillness = Stillness()

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

    def freeze(self) -> None:
        """SIGSTOP to it and to what descends from it."""
        self._signal_all(signal.SIGSTOP)

    def stands(self) -> bool:
        """Whether all of that is stopped, and has not run since this was last asked."""
        return self._stillness.look(self._family())

    def go_on(self) -> None:
        """SIGCONT to all of that."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        self.signal(number)
        for process in self._family():
            table.send(process.name, number=number)

    def _family(self) -> list[table.Process]:
        return table.family(table.read_table(), leader=self._name)

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

    async def left_behind(self, ended: frozenset[GuestName], /) -> Mapping[GuestName, Guest]:
        """Those of which a process carries the mark. What cannot be told in time is taken for living, and looked for
        again until it is known to be gone.
        """
        from etcdlock.adapters.gated import living_of

        if not ended:
            return {}
        leaders = frozenset(table.Name(*name) for name in ended)
        searching = asyncio.get_running_loop().run_in_executor(self._mark_threads, living_of, leaders)
        try:
            async with asyncio.timeout(_SEARCH_WITHIN_SECONDS):
                living = await searching
        except (TimeoutError, OSError) as error:
            note("guests_not_looked_for", level=logging.WARNING, guests=len(leaders), error=error)
            return {(name.pid, name.start): self._left(name, frozenset()) for name in leaders}
        return {(name.pid, name.start): self._left(name, members) for name, members in living.items() if members}

    def _left(self, name: table.Name, members: frozenset[table.Name], /) -> Guest:
        from etcdlock.adapters.gated import LeftBehind

        return LeftBehind(name, known=members, threads=self._mark_threads)

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
            async with asyncio.timeout(_LOOK_WITHIN_SECONDS):
                return await looking
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
    "not open" is said only of descriptors that stayed the same while they were looked at, and never of those that the
    kernel does not show: an agent in a container may lack the right.
    """
    if not resource.path and len(resource.name) != hashlib.sha256().digest_size * 2:
        return True
    means = partial(_is_file, path=resource.path) if resource.path else partial(_has_digest, digest=resource.name)
    before: _Descriptors | None = None
    for _ in range(_MOST_LOOKS):
        try:
            now = _descriptors(pid)
        except OSError as error:
            note("guests_files_not_shown", level=logging.WARNING, pid=pid, error=error)
            return True
        if now is not None and any(map(means, now.values())):
            return True
        if now is not None and now == before:
            return False
        before = now
    return True


def _descriptors(pid: int, /) -> _Descriptors | None:
    """All of a process, with the file that each led to when it was looked at; None if one went away meanwhile.

    Raises `OSError` if the kernel does not show them.
    """
    try:
        return {link.name: _opened(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    except FileNotFoundError:
        return None if Path(f"/proc/{pid}/fd").exists() else {}
    except ProcessLookupError:
        return {}  # it is gone


def _opened(link: Path, /) -> _Opened:
    try:
        return _Opened(str(link.readlink()), *_identity(link))
    except FileNotFoundError:
        raise
    except OSError as error:  # of a server that answers no more, say: then its name is all there is
        note("not_looked_at", link=link, error=error)
        return _Opened(str(link.readlink()), 0, 0, 0)


def _identity(path: Path, /) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_rdev, found.st_dev, found.st_ino


def _is_file(opened: _Opened, *, path: str) -> bool:
    """By device number, or by file system and inode; a file that has no name any more has the one that it had."""
    try:
        device, *file = _identity(Path(path))
    except OSError:
        return opened.target == path
    if opened.device or device:
        return opened.device == device
    return [opened.file_system, opened.inode] == file


def _has_digest(opened: _Opened, *, digest: str) -> bool:
    return hashlib.sha256(os.fsencode(opened.target)).hexdigest() == digest
