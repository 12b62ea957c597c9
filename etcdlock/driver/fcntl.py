"""The driver `fcntl`: locks of the kernel on one file, for one host, or for hosts that share a file system whose locks
work between them. No etcd, no agent, nothing to set up.

The guest itself holds its locks, by a descriptor that it inherits from its supervisor: they last exactly as long as the
guest's processes, whatever becomes of the management program, and nobody has to stop a guest that has lost them.
So a guest must come through the supervisor.

What it cannot protect it says (`cannot_protect`): above all block devices that several hosts share, unless the folder
(`fcntl_folder`) is on a file system that all of them share too.
"""

from __future__ import annotations

import json
import os
import select
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from etcdlock.driver import byte_locks
from etcdlock.driver.fcntl_guests import borrowed
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
        self._waiting: dict[UUID, int] = {}
        """Descriptors of what is locked for supervisors that were not let through, and of reservations."""
        self._turn = threading.Lock()

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

    @property
    def host(self) -> str:
        """This host's id."""
        return self._host

    def identify(self, path: str, /) -> ResourceName:
        """By the settings' rule."""
        (found,) = self._names.identified((path,))
        return found.name

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
                self._write(lock)
            except BaseException:
                os.close(descriptor)
                raise
            self._waiting[owner.domain.uuid] = descriptor
            return lock

    def _as_before(self, owner: Owner, /) -> Lock | None:
        """What this very process has already: to ask again is a success."""
        if owner.domain.uuid in self._waiting:
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
        """The descriptor that is the lock."""
        with self._turn:
            descriptor = self._waiting.get(owner.domain.uuid)
        return () if descriptor is None else (descriptor,)

    def passed_on(self, owner: Owner, /) -> None:
        """The guest has its descriptor, or is gone: ours goes."""
        with self._turn:
            descriptor = self._waiting.pop(owner.domain.uuid, None)
            if descriptor is not None:
                os.close(descriptor)

    def release(self, owner: Owner, /) -> None:
        process = table.look_up(owner.pid)
        if process is not None and process.alive:
            raise Refused(f"domain {owner} lives: its locks stay with it", hint="end the process")
        self.passed_on(owner)
        descriptor = self._opened()
        try:
            if byte_locks.is_held(descriptor, _offset(owner.domain.uuid)):
                raise Refused(
                    f"domain {owner.domain}: something that {owner} has started still holds its locks",
                    hint="end what the guest has left behind",
                )
            self._record(owner.domain.uuid).unlink(missing_ok=True)
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
            return self._read(uuid) or Lock(uuid, "", held=False)

    def reserve(self, owner: Owner, resources: tuple[Resource, ...], /) -> Lock:
        lock = self.acquire(owner, resources)
        try:
            pidfd = os.pidfd_open(owner.pid)
        except OSError as error:
            self.passed_on(owner)
            raise NoSuchGuest(f"there is no process {owner.pid} on this host") from error
        threading.Thread(target=self._until_gone, args=(owner, pidfd), daemon=True).start()
        return lock

    def _until_gone(self, owner: Owner, pidfd: int, /) -> None:
        """A reservation ends with its process."""
        try:
            select.select([pidfd], [], [])
        finally:
            os.close(pidfd)
        self.passed_on(owner)

    def unreserve(self, owner: Owner, /) -> None:
        self.passed_on(owner)
        self._record(owner.domain.uuid).unlink(missing_ok=True)

    # --- while it runs ---------------------------------------------------------------------------------------------

    def suspend(self, owner: Owner, /) -> Lock:
        return self._change(owner, lambda lock, _: replace(lock, state=LockState.PARKED))

    def resume(self, owner: Owner, /) -> Lock:
        return self._change(owner, lambda lock, _: replace(lock, state=LockState.HELD))

    def add(self, owner: Owner, resource: Resource, /) -> Lock:
        def change(lock: Lock, descriptor: int) -> Lock:
            held = [item for item in lock.resources if _is_named_as(resource, item)]
            if resource.mode is Mode.READ_ONLY or any(item.mode in (resource.mode, Mode.EXCLUSIVE) for item in held):
                return lock
            self._take_one(descriptor, resource)
            return replace(lock, resources=(*(item for item in lock.resources if item not in held), resource))

        return self._change(owner, change)

    def remove(self, owner: Owner, resource: Resource, /) -> Lock:
        from etcdlock.adapters.host_processes import has_open

        def change(lock: Lock, descriptor: int) -> Lock:
            held = next((item for item in lock.resources if _is_named_as(resource, item)), None)
            if held is None:
                return lock
            if has_open(owner.pid, held):
                raise Refused(f"{held}: {owner} may still have it open", hint="unplug it first")
            byte_locks.drop(descriptor, byte_locks.offset_of(held.lockspace, held.name))
            return replace(lock, resources=tuple(item for item in lock.resources if item is not held))

        return self._change(owner, change)

    def _change(self, owner: Owner, change: Callable[[Lock, int], Lock], /) -> Lock:
        """Through the guest's own descriptor. Raises `NotLocked`."""
        with self._turn:
            descriptor = borrowed(owner.pid, file=self._file, offset=_offset(owner.domain.uuid))
            try:
                lock = change(self._known(owner), descriptor)
                self._write(lock)
            finally:
                os.close(descriptor)
            return lock

    # --- parts -----------------------------------------------------------------------------------------------------

    def _opened(self) -> int:
        return os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _take_all(self, descriptor: int, domain: DomainId, resources: tuple[Resource, ...], /) -> None:
        """In one order everywhere, so that of two that want the same one gets it. Raises `HeldElsewhere`."""
        if not byte_locks.take(descriptor, _offset(domain.uuid), shared=False):
            raise self._refusal(domain, None)
        for resource in sorted(resources, key=lambda item: byte_locks.offset_of(item.lockspace, item.name)):
            self._take_one(descriptor, resource)

    def _take_one(self, descriptor: int, resource: Resource, /) -> None:
        offset = byte_locks.offset_of(resource.lockspace, resource.name)
        if not byte_locks.take(descriptor, offset, shared=resource.mode is not Mode.EXCLUSIVE):
            raise self._refusal(None, resource)

    def _refusal(self, domain: DomainId | None, resource: Resource | None, /) -> HeldElsewhere:
        found = [lock for lock in self._records() if _names(lock, domain, resource)]
        unknown = DomainId(UUID(int=0), "unknown")
        blockers = tuple(_blocker(lock, resource) for lock in found) or (Blocker(domain or unknown, resource),)
        what = f"domain {domain}" if resource is None else f"disk {resource}"
        names = [f"domain {lock.name or lock.uuid} on host {lock.host} since {lock.since}" for lock in found]
        by = " and by ".join(names)
        hint = "stop it there first; it is held for as long as a process of it lives"
        return HeldElsewhere(f"{what} is held{f' by {by}' if by else ''}", blockers=blockers, hint=hint)

    def _known(self, owner: Owner, /) -> Lock:
        lock = self._read(owner.domain.uuid)
        if lock is None or lock.pid != owner.pid or lock.host != self.host:
            raise NotLocked(f"domain {owner.domain} is not locked for process {owner.pid} of this host")
        return lock

    # --- what people read ------------------------------------------------------------------------------------------

    def _record(self, uuid: UUID, /) -> Path:
        return self._folder / f"{uuid}.json"

    def _write(self, lock: Lock, /) -> None:
        """Whole or not at all."""
        names = ("uuid", "name", "host", "state", "run", "pid", "since")
        resources = [[item.lockspace, item.name, item.mode, item.path] for item in lock.resources]
        text = json.dumps({**{name: getattr(lock, name) for name in names}, "resources": resources}, default=str)
        draft = self._record(lock.uuid).with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        try:
            draft.write_text(text, encoding="utf-8", errors="surrogateescape")
            draft.replace(self._record(lock.uuid))
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise Refused(f"fcntl_folder: {draft}: {error.strerror}; nothing was locked") from error

    def _read(self, uuid: UUID, /) -> Lock | None:
        try:
            return self._parsed(json.loads(self._record(uuid).read_text(encoding="utf-8", errors="surrogateescape")))
        except (OSError, ValueError, KeyError, TypeError):  # it only tells who it is
            return None

    def _parsed(self, found: dict[str, Any], /) -> Lock:
        return Lock(
            UUID(found["uuid"]),
            str(found["name"]),
            held=found["host"] == self.host,
            host=str(found["host"]),
            state=LockState(found["state"]),
            run=str(found["run"]),
            pid=int(found["pid"]),
            since=str(found["since"]),
            resources=tuple(Resource(space, name, Mode(mode), path) for space, name, mode, path in found["resources"]),
        )

    def _records(self) -> Iterable[Lock]:
        """Those whose lock somebody has."""
        descriptor = self._opened()
        try:
            for path in sorted(self._folder.glob("*.json")):
                lock = self._read(UUID(path.stem))
                if lock is not None and byte_locks.is_held(descriptor, _offset(lock.uuid)):
                    yield lock
        finally:
            os.close(descriptor)


def _offset(uuid: UUID, /) -> int:
    return byte_locks.offset_of(_DOMAINS, str(uuid))


def _locked(resources: tuple[Resource, ...], /) -> tuple[Resource, ...]:
    return tuple(resource for resource in resources if resource.mode is not Mode.READ_ONLY)


def _is_named_as(wanted: Resource, held: Resource, /) -> bool:
    return (wanted.lockspace, wanted.name) == (held.lockspace, held.name)


def _names(lock: Lock, domain: DomainId | None, resource: Resource | None, /) -> bool:
    if resource is not None:
        return any(_is_named_as(resource, held) for held in lock.resources)
    return domain is not None and lock.uuid == domain.uuid


def _blocker(lock: Lock, resource: Resource | None, /) -> Blocker:
    owner = SessionRef(lock.host, FcntlDriver.name)
    domain = DomainId(lock.uuid, lock.name)
    return Blocker(domain, resource, owner, lock.state, lock.since, lock.token, alive=True)
