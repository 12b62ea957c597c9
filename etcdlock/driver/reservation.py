"""Disks held for a process that is no guest: a backup, a repair, a look into an image. libvirt's Reserve and UnReserve.

Held from `acquire` until `release`, the end of the process it is for, or the end of the connection over which it was
asked (driver `agent`) or of the program (`fcntl`), whichever comes first. While it lasts, no guest that needs one of
the disks starts, on any host.

The process is stopped like a guest, with all that it has started, when its session can no longer be proven: so it is
best one of its own, that does nothing else. `etcdlock reserve` starts one.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import uuid4

from etcdlock.driver.loading import Loaded
from etcdlock.driver.plugin import Capability, Lock
from etcdlock.driver.wanted import Registrar
from etcdlock.errors import InvalidInput, NotLocked, Refused
from etcdlock.identity import Named, check_reservable, of_domain
from etcdlock.model import DomainId, Mode, Owner

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Reservation:
    """For the process `pid`; `name` is what others read who are refused. A context manager that gives all back."""

    def __init__(self, driver: Loaded, name: str, /, *, pid: int) -> None:
        asked = driver.ask(Capability.RESERVE)
        self._loaded = driver
        self._owner = Owner(DomainId(uuid4(), name), pid)
        self._registrar = Registrar(asked)
        self._wanted: list[Named] = []
        self._lock: Lock | None = None
        self._is_in_doubt = False
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def add_disk(self, path: str, /, *, mode: Mode = Mode.EXCLUSIVE, image_format: str = "raw") -> None:
        """A disk by its absolute path; of one that is `qcow2` the images below, too, where the cluster locks them."""
        self._add(self._registrar.disk(path, mode=mode, image_format=image_format, called=f"disk {path}"))

    def add_domain(self, xml: bytes | str, /, *, source: str = "domain XML", readonly: bool = False) -> None:
        """All disks and leases of a domain; with `readonly` all shared, so that several may read and nobody writes."""
        parsed, wanted = self._registrar.domain(xml, source=source)
        self._add([of_domain(named, parsed.domain.name, readonly=readonly) for named in wanted])

    def _add(self, each: list[Named], /) -> None:
        """All of them, or none."""
        with self._turn:
            if self._lock is not None:
                raise Refused("the reservation is held already", hint="make another one for more")
            wanted = [*self._wanted, *each]
            self._registrar.all_of(wanted)
            self._wanted = wanted

    def acquire(self) -> Lock:
        """All of it, or nothing. Raises `HeldElsewhere`. Asked again it is a success; `release` ends it also where no
        answer had come.
        """
        with self._turn:
            if self._lock is None:
                resources = check_reservable(self._registrar.all_of(self._wanted))
                driver = self._loaded.ask(Capability.RESERVE)
                self._is_in_doubt = True
                try:
                    self._lock = driver.reserve(self._owner, resources)
                except (InvalidInput, Refused):
                    self._is_in_doubt = False
                    raise
            return self._lock

    def release(self) -> None:
        """The process does not use them any more."""
        with self._turn:
            if self._is_in_doubt:
                with suppress(NotLocked):
                    self._loaded.ask(Capability.RESERVE).unreserve(self._owner)
                self._lock, self._is_in_doubt = None, False
