"""The driver `fcntl`: locks of the kernel on one file, for one host, or for hosts that share a file system whose locks
work between them. No etcd, no agent, nothing to set up.

The guest itself holds its locks, by a descriptor that it inherits from its supervisor: they last exactly as long as the
guest's processes, whatever becomes of the management program, and nobody has to stop a guest that has lost them.
So a guest must come through the supervisor.

What it cannot protect it says (`cannot_protect`): above all block devices that several hosts share, unless the folder
(`fcntl_folder`) is on a file system that all of them share too.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4
from weakref import WeakSet

from etcdlock.driver import byte_locks
from etcdlock.driver.fcntl_guests import borrowed, may_have_open
from etcdlock.driver.fcntl_records import Records
from etcdlock.driver.plugin import Capability, Driver, Lock, Opening
from etcdlock.errors import (
    DriverNotLoaded,
    HeldElsewhere,
    InvalidSetting,
    NoSuchGuest,
    NotLocked,
    NotPermitted,
    Refused,
)
from etcdlock.guard import table
from etcdlock.model import Blocker, DomainId, LockState, Mode, Owner, Resource, SessionRef

if TYPE_CHECKING:
    from typing import Self

    from etcdlock.config import Settings
    from etcdlock.identity import ResourceName

FILE = "locks"
_DOMAINS = "domain"


class FcntlDriver(Driver):
    """`locks` in the folder is what is locked; `<uuid>.json` tells people, and decides nothing."""

    name = "fcntl"
    capabilities = frozenset(
        (
            Capability.EXCLUSION,
            Capability.RESOURCES,
            Capability.SHARED,
            Capability.HOTPLUG,
            Capability.SUSPEND,
            Capability.ATTACH,
            Capability.RESERVE,
        )
    )
    cannot_protect = (
        "Block devices that several hosts share, and anything else they do, unless fcntl_folder is shared by all, too.",
        "Hosts from each other by a file system whose locks do not work between hosts: only this host's are tried out.",
        "A disk from a guest whose host is cut off from such a file system, or whose server has lost its locks.",
        "A partition from a guest that has its whole disk, and a whole disk from one that has a partition of it.",
    )

    @classmethod
    def open(cls, opening: Opening, /) -> Self:
        """Make the folder, and try whether locks work there. Raises `InvalidSetting` and `DriverNotLoaded`."""
        opening.expect_no_options(cls.name)
        driver = cls(opening.settings)
        driver._try_out()
        return driver

    def __init__(self, settings: Settings, /) -> None:
        from etcdlock.wiring import host_id, namer

        self._settings = settings
        self._names, self._host = namer(settings), host_id(settings)
        self._folder = Path(settings.fcntl_folder)
        self._file = self._folder / FILE
        self._records = Records(self._folder, self._host)
        self._waiting: dict[Owner, int] = {}
        """Descriptors of what is locked for supervisors that were not let through, and of reservations."""
        self._turn = threading.Lock()
        _made.add(self)

    def _try_out(self) -> None:
        try:
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            one, other = self._opened(), self._opened()
        except OSError as error:
            raise InvalidSetting(f"fcntl_folder: {self._file}: {error.strerror}") from error
        try:
            offset = byte_locks.offset_of("try", uuid4().hex)
            works = byte_locks.take(one, offset, shared=False) and not byte_locks.take(other, offset, shared=False)
        except OSError as error:
            raise DriverNotLoaded(f"fcntl_folder: {self._file}: locks do not work there: {error.strerror}") from error
        finally:
            os.close(one)
            os.close(other)
        if not works:
            raise DriverNotLoaded(
                f"fcntl_folder: {self._file}: the file system gives one lock to two at once",
                hint="choose a folder on another file system (NFS: mount it without nolock)",
            )

    def close(self) -> None:
        """Let go of what nobody was let through to, and of reservations."""
        with self._turn:
            for descriptor in self._waiting.values():
                os.close(descriptor)
            self._waiting.clear()

    def after_fork(self) -> None:
        """In the child, which must not hold what its parent gives back."""
        for descriptor in self._waiting.values():
            os.close(descriptor)
        self._waiting.clear()

    @property
    def host(self) -> str:
        """This host's id."""
        return self._host

    def identify(self, path: str, /) -> ResourceName:
        """By the settings' rule."""
        return self._names.name_now(path)

    @property
    def locks_readonly_disks(self) -> bool:
        """By the settings' rule."""
        return self._settings.readonly_disks == "shared"

    # --- taking and giving back ------------------------------------------------------------------------------------

    def acquire(self, owner: Owner, resources: tuple[Resource, ...], /) -> Lock:
        with self._turn:
            lock = self._as_before(owner)
            if lock is not None:
                return lock
            descriptor = self._opened()
            try:
                lock = self._new(owner, _locked(resources))
                self._take_all(descriptor, owner.domain, lock.resources)
                self._records.write(lock)
            except BaseException:
                os.close(descriptor)
                raise
            self._waiting[owner] = descriptor
            return lock

    def _as_before(self, owner: Owner, /) -> Lock | None:
        """What this very process has already: to ask again is a success."""
        if owner in self._waiting:
            return self._known(owner)
        try:
            os.close(borrowed(owner.pid, file=self._file, offset=_offset(owner.domain.uuid)))
            return self._known(owner)
        except (NotLocked, NotPermitted):
            return None

    def _new(self, owner: Owner, resources: tuple[Resource, ...], /) -> Lock:
        return Lock(
            owner.domain.uuid,
            owner.domain.name,
            held=True,
            host=self.host,
            run=uuid4().hex,
            pid=owner.pid,
            since=datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
            resources=resources,
        )

    def pass_on(self, owner: Owner, /) -> tuple[int, ...]:
        """The descriptor that is the lock. Raises `NotLocked` where it was given back meanwhile."""
        with self._turn:
            descriptor = self._waiting.get(owner)
        if descriptor is None:
            raise NotLocked(f"domain {owner}: its locks were given back before it could run", hint="start it anew")
        return (descriptor,)

    def passed_on(self, owner: Owner, /) -> None:
        """The guest has its descriptor, or is gone: ours goes."""
        with self._turn:
            descriptor = self._waiting.pop(owner, None)
            if descriptor is not None:
                os.close(descriptor)

    def release(self, owner: Owner, /) -> None:
        process = table.look_up(owner.pid)
        if process is not None and process.alive:
            raise Refused(f"domain {owner} lives: its locks stay with it", hint="end the process")
        self.passed_on(owner)
        with self._turn:
            lock = self._records.read(owner.domain.uuid)
            if lock is not None and (lock.host, lock.pid) != (self.host, owner.pid):
                return  # a later guest's, here or on another host
            self._forget(owner)

    def _forget(self, owner: Owner, /) -> None:
        """What was written of it. Its lock is ours meanwhile, so that a later guest's is not taken for it."""
        descriptor = self._opened()
        try:
            if not byte_locks.take(descriptor, _offset(owner.domain.uuid), shared=False):
                raise Refused(
                    f"domain {owner.domain}: something that {owner} has started still holds its locks",
                    hint="end what the guest has left behind",
                )
            self._records.remove(owner.domain.uuid)
        finally:
            os.close(descriptor)

    def inquire(self, uuid: UUID, /) -> Lock | None:
        with self._turn:
            descriptor = self._opened()
            try:
                if not byte_locks.is_held(descriptor, _offset(uuid)):
                    return None
            finally:
                os.close(descriptor)
            return self._records.read(uuid) or Lock(uuid, "", held=False)

    def reserve(self, owner: Owner, resources: tuple[Resource, ...], /) -> Lock:
        lock = self.acquire(owner, resources)
        try:
            pidfd = os.pidfd_open(owner.pid)
        except OSError as error:
            self.unreserve(owner)
            raise NoSuchGuest(f"there is no process {owner.pid} on this host") from error
        threading.Thread(target=self._until_gone, args=(owner, pidfd), daemon=True).start()
        return lock

    def _until_gone(self, owner: Owner, pidfd: int, /) -> None:
        """A reservation ends with its process."""
        watch = select.poll()
        watch.register(pidfd, select.POLLIN)
        try:
            watch.poll()
        finally:
            os.close(pidfd)
        self.unreserve(owner)

    def unreserve(self, owner: Owner, /) -> None:
        with self._turn:
            descriptor = self._waiting.pop(owner, None)
            if descriptor is not None:
                self._records.remove(owner.domain.uuid)
                os.close(descriptor)

    # --- while it runs ---------------------------------------------------------------------------------------------

    def suspend(self, owner: Owner, /) -> Lock:
        with self._of_guest(owner) as (lock, _):
            return self._records.write(replace(lock, state=LockState.PARKED))

    def resume(self, owner: Owner, /) -> Lock:
        with self._of_guest(owner) as (lock, _):
            run = uuid4().hex if lock.state is LockState.PARKED else lock.run
            return self._records.write(replace(lock, state=LockState.HELD, run=run))

    def add(self, owner: Owner, resource: Resource, /) -> Lock:
        with self._of_guest(owner) as (lock, descriptor):
            if resource.mode is Mode.READ_ONLY:
                return lock
            held = [item for item in lock.resources if _is_named_as(resource, item)]
            if any(item.mode is Mode.EXCLUSIVE for item in held):
                resource = replace(resource, mode=Mode.EXCLUSIVE)
            if not self._takes(descriptor, resource):
                raise self._refusal(resource)
            if any(item.mode is resource.mode for item in held):
                return lock
            try:
                others = tuple(item for item in lock.resources if item not in held)
                return self._records.write(replace(lock, resources=(*others, resource)))
            except Refused:
                if not held:
                    byte_locks.drop(descriptor, _offset_of(resource))
                raise

    def remove(self, owner: Owner, resource: Resource, /) -> Lock:
        held = next((item for item in self._known(owner).resources if _is_named_as(resource, item)), None)
        if held is not None and may_have_open(owner.pid, held):  # which may take long: nobody else waits for it
            raise Refused(f"{held}: {owner} may still have it open", hint="unplug it first")
        with self._of_guest(owner) as (lock, descriptor):
            if held not in lock.resources:
                return lock
            kept = tuple(item for item in lock.resources if item != held)
            left = self._records.write(replace(lock, resources=kept))
            byte_locks.drop(descriptor, _offset_of(resource))
            return left

    @contextmanager
    def _of_guest(self, owner: Owner, /) -> Iterator[tuple[Lock, int]]:
        """What it has, and a descriptor of the guest's own by which that may be changed. Raises `NotLocked`."""
        with self._turn:
            descriptor = borrowed(owner.pid, file=self._file, offset=_offset(owner.domain.uuid))
            try:
                yield self._known(owner), descriptor
            finally:
                os.close(descriptor)

    # --- parts -----------------------------------------------------------------------------------------------------

    def _opened(self) -> int:
        return os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _take_all(self, descriptor: int, domain: DomainId, resources: tuple[Resource, ...], /) -> None:
        """In one order everywhere, so that of two that want the same one gets it: nothing is taken behind a no. Raises
        `HeldElsewhere`, with all that is in the way.
        """
        if not byte_locks.take(descriptor, _offset(domain.uuid), shared=False):
            raise self._refusal(domain)
        wanted = sorted(resources, key=_offset_of)
        for number, resource in enumerate(wanted):
            if not self._takes(descriptor, resource):
                raise self._refusal(resource, *(item for item in wanted[number + 1 :] if _is_held(descriptor, item)))

    def _takes(self, descriptor: int, resource: Resource, /) -> bool:
        return byte_locks.take(descriptor, _offset_of(resource), shared=_is_shared(resource))

    def _refusal(self, *wanted: DomainId | Resource) -> HeldElsewhere:
        known, said, blockers = self._held(), list[str](), list[Blocker]()
        for one in wanted:
            resource = one if isinstance(one, Resource) else None
            found = [lock for lock in known if _is_wanted(lock, one)]
            unknown = DomainId(UUID(int=0), "unknown") if isinstance(one, Resource) else one
            blockers += [_blocker(lock, resource) for lock in found] or [Blocker(unknown, resource)]
            names = [f"domain {lock.name or lock.uuid} on host {lock.host} since {lock.since}" for lock in found]
            by = " and by ".join(names)
            said.append(f"{'domain' if resource is None else 'disk'} {one} is held{f' by {by}' if by else ''}")
        hint = "stop it there first; it is held for as long as a process of it lives"
        return HeldElsewhere("; ".join(said), blockers=tuple(blockers), hint=hint)

    def _held(self) -> list[Lock]:
        """What is written of locks that somebody has."""
        descriptor = self._opened()
        try:
            return [lock for lock in self._records.all() if byte_locks.is_held(descriptor, _offset(lock.uuid))]
        finally:
            os.close(descriptor)

    def _known(self, owner: Owner, /) -> Lock:
        lock = self._records.read(owner.domain.uuid)
        if lock is None or lock.pid != owner.pid or lock.host != self.host:
            raise NotLocked(f"domain {owner.domain} is not locked for process {owner.pid} of this host")
        return lock


def _offset(uuid: UUID, /) -> int:
    return byte_locks.offset_of(_DOMAINS, str(uuid))


def _offset_of(resource: Resource, /) -> int:
    return byte_locks.offset_of(resource.lockspace, resource.name)


def _is_held(descriptor: int, resource: Resource, /) -> bool:
    return byte_locks.is_held(descriptor, _offset_of(resource), shared=_is_shared(resource))


def _is_shared(resource: Resource, /) -> bool:
    return resource.mode is not Mode.EXCLUSIVE


def _locked(resources: tuple[Resource, ...], /) -> tuple[Resource, ...]:
    return tuple(resource for resource in resources if resource.mode is not Mode.READ_ONLY)


def _is_named_as(wanted: Resource, held: Resource, /) -> bool:
    return (wanted.lockspace, wanted.name) == (held.lockspace, held.name)


def _is_wanted(lock: Lock, wanted: DomainId | Resource, /) -> bool:
    if isinstance(wanted, Resource):
        return any(_is_named_as(wanted, held) for held in lock.resources)
    return lock.uuid == wanted.uuid


def _blocker(lock: Lock, resource: Resource | None, /) -> Blocker:
    owner = SessionRef(lock.host, FcntlDriver.name)
    domain = DomainId(lock.uuid, lock.name)
    return Blocker(domain, resource, owner, lock.state, lock.since, lock.token, alive=True)


def _after_fork() -> None:
    for driver in tuple(_made):
        driver.after_fork()


_made: WeakSet[FcntlDriver] = WeakSet()
os.register_at_fork(after_in_child=_after_fork)
