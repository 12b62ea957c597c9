"""The driver `nop`: says yes and locks nothing, for hosts whose guests share no storage, and for trying out.

It declares no exclusion: a program that requires that (`load(require={Capability.EXCLUSION})`) does not get it.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from etcdlock.driver.plugin import Capability, Driver, Lock, Opening
from etcdlock.errors import NotLocked, Refused
from etcdlock.identity import Naming, ResourceName
from etcdlock.model import LockState, Owner, Resource

if TYPE_CHECKING:
    from typing import Self


class NopDriver(Driver):
    """Remembers what it was told, to answer `inquire`."""

    name = "nop"
    capabilities = frozenset(
        (
            Capability.RESOURCES,
            Capability.SHARED,
            Capability.HOTPLUG,
            Capability.SUSPEND,
            Capability.BY_PID,
            Capability.ADOPT,
        )
    )
    cannot_protect = ("Anything: two guests may write one disk.",)

    @classmethod
    def open(cls, opening: Opening, /) -> Self:
        """Nothing can be in its way."""
        opening.expect_no_options(cls.name)
        return cls()

    def __init__(self) -> None:
        self._locks: dict[UUID, Lock] = {}
        self._turn = threading.Lock()

    def close(self) -> None:
        """Nothing is held."""

    @property
    def host(self) -> str:
        """Whichever."""
        return "localhost"

    def identify(self, path: str, /) -> ResourceName:
        """By path."""
        return Naming()(path)

    def acquire(self, owner: Owner, resources: tuple[Resource, ...], /) -> Lock:
        uuid, name = owner.domain.uuid, owner.domain.name
        lock = Lock(uuid, name, held=True, host=self.host, run=uuid4().hex, pid=owner.pid, resources=resources)
        with self._turn:
            return self._locks.setdefault(uuid, lock)

    def adopt(self, owner: Owner, resources: tuple[Resource, ...], /) -> Lock:
        return self.acquire(owner, resources)

    def release(self, owner: Owner, /) -> None:
        from etcdlock.guard import table

        process = table.look_up(owner.pid)
        if process is not None and process.alive:
            raise Refused(f"domain {owner} lives: its locks stay with it", hint="end the process")
        with self._turn:
            self._locks.pop(owner.domain.uuid, None)

    def inquire(self, uuid: UUID, /) -> Lock | None:
        return self._locks.get(uuid)

    def suspend(self, owner: Owner, /) -> Lock:
        return self._change(owner, state=LockState.PARKED)

    def resume(self, owner: Owner, /) -> Lock:
        return self._change(owner, state=LockState.HELD)

    def add(self, owner: Owner, resource: Resource, /) -> Lock:
        return self._change(owner, added=(resource,))

    def remove(self, owner: Owner, resource: Resource, /) -> Lock:
        return self._change(owner, removed=resource)

    def _change(
        self,
        owner: Owner,
        /,
        *,
        state: LockState | None = None,
        added: tuple[Resource, ...] = (),
        removed: Resource | None = None,
    ) -> Lock:
        with self._turn:
            lock = self._locks.get(owner.domain.uuid)
            if lock is None:
                raise NotLocked(f"domain {owner.domain} is not locked")
            gone = None if removed is None else (removed.lockspace, removed.name)
            names = {(item.lockspace, item.name) for item in added} | {gone}
            kept = tuple(item for item in lock.resources if (item.lockspace, item.name) not in names)
            goes_on = lock.state is LockState.PARKED and state is LockState.HELD
            run = uuid4().hex if goes_on else lock.run
            lock = replace(lock, state=state or lock.state, run=run, resources=kept + added)
            self._locks[lock.uuid] = lock
            return lock
