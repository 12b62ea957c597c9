"""The lock manager of one guest: libvirt's lock-manager plug-in API, for programs that manage virtual machines.

    lock = LockManager(driver, DomainId(uuid, "vm1"))
    lock.register("/dev/san/vm1")
    qemu = lock.start(["qemu-system-x86_64", "-drive", "file=/dev/san/vm1,format=raw,cache=none", …])
    …
    qemu.wait()
    lock.release()

Guaranteed: nothing of the guest runs before its locks are held and it is armed; a no leaves nothing behind. Locks
belong to the guest's process, not to this object and not to the program: both may end, and `attach` finds the guest
again. Every method may be called from any thread; those of one guest take turns. What is asked again after its answer
was lost (`OutcomeUnknown`) is a success if it was done.

docs/DRIVER.md tells how a management program uses it.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etcdlock.driver.layers import add_with_layers
from etcdlock.driver.loading import Loaded
from etcdlock.driver.plugin import Capability, Driver, Lock
from etcdlock.driver.state import State, parse_state, state_of
from etcdlock.driver.supervision import Supervision
from etcdlock.driver.wanted import Registrar, ResourceKind
from etcdlock.errors import InvalidInput, NotLocked, NotTheOwner, Refused, Superseded
from etcdlock.identity import Named
from etcdlock.model import DomainId, Mode, Owner, Resource

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

SUPERVISOR_WITHIN_SECONDS = 30.0


class LockManager:
    """Of one guest. A context manager: at the end it lets go of what has not begun; what runs keeps its locks."""

    def __init__(self, driver: Loaded, domain: DomainId, /) -> None:
        self._loaded = driver
        self._domain = domain
        self._turn = threading.RLock()
        self._wanted: list[Named] = []
        self._pid = 0
        self._is_attached = False
        self._supervision: Supervision | None = None
        self._ticket: State | None = None
        self._has_arrived = False
        self._resuming: State | None = None
        self._lock: Lock | None = None
        asked = driver.ask()
        self._registrar = Registrar(asked)

    @classmethod
    def attach(cls, driver: Loaded, domain: DomainId, /, *, pid: int = 0) -> Self:
        """The guest that a management program before this one has locked, and that still lives: `ATTACH`.

        Raises `NotLocked` where this host does not hold it, `NotTheOwner` where it is another process than `pid`.
        """
        found = driver.ask(Capability.ATTACH).inquire(domain.uuid)
        if found is None or not found.held or not found.pid:
            raise NotLocked(
                f"domain {domain} is not locked for any guest of this host",
                hint="adopt() locks a guest that runs already",
            )
        if pid and found.pid != pid:
            raise NotTheOwner(f"domain {domain} is locked for process {found.pid} of this host, not for {pid}")
        manager = cls(driver, domain)
        manager._pid, manager._lock, manager._is_attached = found.pid, found, True
        return manager

    @classmethod
    def incoming(cls, driver: Loaded, domain: DomainId, /, *, ticket: str) -> Self:
        """On the destination of a migration; `ticket` is what the source's `prepare_migrate` gave: `MIGRATION`.

        Register what the guest has here and `start` it: it runs at once, to receive its memory, with its vCPUs standing
        and no locks. Then `complete_migrate`. Raises `InvalidInput` for a ticket of another domain or host.
        """
        host, state = driver.ask(Capability.MIGRATION).host, parse_state(ticket)
        if state.uuid != domain.uuid:
            raise InvalidInput(f"the ticket is for domain {state.uuid}, not for {domain.uuid}")
        if state.host and state.host != host:
            raise InvalidInput(f"the ticket is for a migration to host {state.host}, and this is {host}")
        manager = cls(driver, domain)
        manager._ticket = state
        return manager

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.free()

    def free(self) -> None:
        """Refuse a supervisor that still waits. Locks stay with their guest."""
        with self._turn:
            if self._supervision is not None:
                self._supervision.close()
                self._supervision, self._pid = None, 0

    # --- what is wanted --------------------------------------------------------------------------------------------

    @property
    def domain(self) -> DomainId:
        """Whose locks these are."""
        return self._domain

    def register(
        self,
        path: str,
        /,
        *,
        kind: ResourceKind = ResourceKind.DISK,
        mode: Mode | None = None,
        image_format: str = "raw",
    ) -> Resource:
        """One resource that `acquire` is to lock: `RESOURCES`. Exclusive without a mode; a `filesystem` is shared.

        A disk that is `qcow2` may lie on others: where the cluster locks these, they are registered with it.
        """
        return self._register(*self._registrar.each(kind, path, mode=mode, image_format=image_format))

    def register_lease(self, key: str, /, *, lockspace: str, target: str) -> Resource:
        """An explicit lease, as libvirt's `<lease>`."""
        return self._register(Named(f"lease {key}", self._registrar.lease(key, lockspace=lockspace, target=target)))

    def register_xml(self, xml: bytes | str, /, *, source: str = "domain XML", devices: bool = False) -> None:
        """All disks and leases of a libvirt domain XML; with `devices` also what docs/DOMAIN_XML.md names so.

        Raises `InvalidDomainXml`, also where it is another domain's.
        """
        from etcdlock.devicexml import parse_devices

        parsed, found = self._registrar.domain(xml, source=source)
        if parsed.domain.uuid != self._domain.uuid:
            raise InvalidInput(f"{source} is of domain {parsed.domain.uuid}, not of {self._domain.uuid}")
        wanted = list(found)
        if devices:
            driver = self._registrar.driver
            wanted += parse_devices(xml, source=source, host=driver.host, identify=driver.identify)
        if wanted:
            self._register(*wanted)

    def _register(self, *each: Named) -> Resource:
        """All of them, or none; the first is the one that was asked for."""
        for named in each:
            self._loaded.ask(Capability.RESOURCES, *_for_mode(named.resource))
        with self._turn:
            if self._lock is not None:
                raise Refused("the guest has its locks already", hint="acquire_resource() adds to them")
            wanted = [*self._wanted, *each]
            self._registrar.all_of(wanted)
            self._wanted = wanted
        return each[0].resource

    # --- starting --------------------------------------------------------------------------------------------------

    def supervisor_command(self) -> tuple[str, ...]:
        """Words to put before the guest's command line, whoever then starts it; it must be started as this user.

        Raises `Refused` while the domain has a guest.
        """
        with self._turn:
            if self._supervision is None:
                if self._pid:
                    raise Refused(f"domain {self._domain} has process {self._pid}", hint="release() once it has ended")
                self._supervision = Supervision()
            return self._supervision.command

    def guest_pid(self, *, within_seconds: float = SUPERVISOR_WITHIN_SECONDS) -> int:
        """The guest's process: of its supervisor, once that is there. Raises `NoSuchGuest` if it does not come."""
        supervision = self._supervision
        if not self._pid and supervision is not None:
            self._pid = supervision.guest_pid(within_seconds=within_seconds)
        if not self._pid:
            raise NotLocked(f"domain {self._domain} has no process yet", hint="start it with supervisor_command()")
        return self._pid

    def start(
        self, command: Sequence[str], /, *, environment: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start the guest as our child, under its locks; `options` are `subprocess.Popen`'s.

        On the destination of a migration it begins without locks. Raises what `acquire` raises; then nothing has run.
        """
        with self._turn:
            process = subprocess.Popen((*self.supervisor_command(), *command), env=environment, **options)  # noqa: S603
            try:
                self.guest_pid()
                if self._ticket is None:
                    self.acquire()
                else:
                    self.let_in()
            except BaseException:
                self.free()
                process.kill()
                process.wait()
                self._lock, self._pid = None, 0
                raise
            return process

    def let_in(self) -> None:
        """On the destination: the supervised process runs, to receive the guest's memory, and has no locks yet."""
        with self._turn:
            if self._ticket is None or self._supervision is None:
                raise Refused("only a guest that migrates in begins without locks", hint="acquire() lets it run")
            self.guest_pid()
            self._supervision.let_through(token=None)
            self._supervision = None

    def acquire(self, *, pid: int = 0, state: str = "") -> Lock:
        """Lock the domain and all that is registered, or nothing; then a supervised guest runs.

        `pid` is the guest's process, needed where it has no supervisor: it must not run it yet (`BY_PID`). `state` is
        what `suspend` gave: the vCPUs are about to go on (`SUSPEND`). On the destination of a migration this claims,
        and the guest must not run before `complete_migrate`. After `attach` it lets the guest run as `complete_migrate`
        does, in case that had not been said to the program before.

        Raises `HeldElsewhere` with everything that is in the way, and `Superseded` where `state` is out of date.
        """
        with self._turn:
            if state:
                return self._resume(parse_state(state))
            driver = self._loaded.ask(*([Capability.BY_PID] if pid and self._supervision is None else []))
            owner = self._owner(pid)
            if self._ticket is not None:
                if self._supervision is not None:
                    raise Refused("the guest has not been let in yet", hint="let_in() or start(), then its memory")
                return self._kept(driver.incoming(owner, self._all(), run=self._ticket.run))
            if self._is_attached and Capability.MIGRATION in driver.capabilities:
                return self._kept(driver.complete_incoming(owner))
            lock = self._kept(driver.acquire(owner, self._all()))
            self._let_through(driver, owner, lock)
            return lock

    def _let_through(self, driver: Driver, owner: Owner, lock: Lock, /) -> None:
        """Nothing is waited for between the driver's yes and this."""
        supervision, self._supervision = self._supervision, None
        if supervision is None:
            return
        try:
            supervision.let_through(token=lock.token, descriptors=driver.pass_on(owner))
        finally:
            driver.passed_on(owner)
            supervision.close()

    def adopt(self, *, pid: int) -> Lock:
        """Lock for a guest that runs already, without locks: `ADOPT`. After a no it runs on, unprotected: stop it."""
        with self._turn:
            driver = self._loaded.ask(Capability.ADOPT)
            return self._kept(driver.adopt(self._owner(pid), self._all()))

    # --- while it runs ---------------------------------------------------------------------------------------------

    def suspend(self) -> str:
        """The vCPUs **have stopped**; they go on only after `acquire(state=…)`. The state string: `SUSPEND`."""
        with self._turn:
            self._resuming = None
            lock = self._kept(self._loaded.ask(Capability.SUSPEND).suspend(self._owner()))
            return str(state_of(lock))

    def _resume(self, state: State, /) -> Lock:
        driver, owner = self._loaded.ask(Capability.SUSPEND), self._owner()
        now = driver.inquire(owner.domain.uuid)
        is_asked_again = now is not None and state == self._resuming and state.token == now.token
        if now is None or not now.held or not (state.is_of(now) or is_asked_again):
            raise Superseded(
                f"domain {owner.domain}: the state string is of an ownership that has ended, or the guest was let run "
                "since",
                hint="what this guest has in memory may be out of date: start it anew",
            )
        self._resuming = state
        return self._kept(driver.resume(owner))

    def acquire_resource(
        self,
        path: str,
        /,
        *,
        kind: ResourceKind = ResourceKind.DISK,
        mode: Mode | None = None,
        image_format: str = "raw",
    ) -> Lock:
        """One more, before the guest opens it, and first what lies below it: `HOTPLUG`. Raises `HeldElsewhere`.

        What lies below stays locked until the guest ends. After a no, what was locked for this is given back.
        """
        found = self._registrar.each(kind, path, mode=mode, image_format=image_format)
        wanted = [one.resource for one in found]
        with self._turn:
            drivers = [self._loaded.ask(Capability.HOTPLUG, *_for_mode(resource)) for resource in wanted]
            disk, *below = self._registrar.by_rule(tuple(wanted))
            return self._kept(add_with_layers(drivers[0], self._owner(), disk, below=below))

    def release_resource(self, path: str, /, *, kind: ResourceKind = ResourceKind.DISK) -> Lock:
        """One less, after the guest has closed it: `HOTPLUG`. Raises `Refused` where it may still have it open."""
        with self._turn:
            driver, owner = self._loaded.ask(Capability.HOTPLUG), self._owner()
            lock = driver.inquire(owner.domain.uuid)
            held = next((item for item in lock.resources if item.path == path), None) if lock is not None else None
            return self._kept(driver.remove(owner, held or self._registrar.resource(kind, path)))

    def inquire(self) -> Lock | None:
        """Who has the domain now, whoever that is; None if nobody is known to."""
        return self._loaded.ask().inquire(self._domain.uuid)

    def state(self) -> str:
        """The state string of the ownership as it stands. Raises `NotLocked` where this host does not have it."""
        return str(state_of(self._current()))

    def release(self) -> None:
        """The guest's process has ended: all is given back when this returns. Raises `Refused` while it lives."""
        with self._turn:
            self._loaded.ask().release(self._owner())
            self._lock, self._pid, self._resuming = None, 0, None
            self._ticket, self._has_arrived, self._is_attached = None, False, False

    # --- migrations ------------------------------------------------------------------------------------------------

    def prepare_migrate(self, host: str = "", /) -> str:
        """On the source, before any memory is sent: the ticket for `incoming` on the destination `host`: `MIGRATION`.

        The guest runs on. At the switch-over, when its vCPUs have stopped, call `suspend`: from then on the destination
        may claim. Raises `Refused` where the destination is this host, and while the domain still migrates in.
        """
        here = self._loaded.ask(Capability.MIGRATION, Capability.SUSPEND).host
        if host == here:
            raise Refused(f"domain {self._domain} is on host {host} already", hint="name the destination's host id")
        with self._turn:
            if self._ticket is not None and not self._has_arrived:
                raise Refused(f"domain {self._domain} has not arrived yet", hint="complete_migrate() comes first")
            ticket = str(state_of(self._current(), host=host))
            self._ticket = None  # from here on this is a source
            return ticket

    def complete_migrate(self) -> Lock | None:
        """On the destination: claim, if `acquire` has not; after this the vCPUs may run, and there is no way back.

        On the source: make sure that the destination has claimed. Then its process may be ended. Raises `NotClaimed`.
        """
        with self._turn:
            driver, owner = self._loaded.ask(Capability.MIGRATION), self._owner()
            if self._ticket is None:
                driver.complete_outgoing(owner)
                self._lock = None
                return None
            if self._lock is None:
                self._kept(driver.incoming(owner, self._all(), run=self._ticket.run))
            lock = self._kept(driver.complete_incoming(owner))
            self._has_arrived = True
            return lock

    def cancel_migrate(self) -> Lock | None:
        """On the destination, whose guest must not run: what was claimed is the source's again. First there, if it can
        be asked; then on the source: after a yes the vCPUs may go on there, if they had stopped.

        Raises `Superseded` on the source once the destination has it, `Refused` there once its guest may run.
        """
        with self._turn:
            driver, owner = self._loaded.ask(Capability.MIGRATION), self._owner()
            if self._ticket is None:
                return self._kept(driver.resume(owner))
            driver.cancel_incoming(owner)
            self._lock = None
            return None

    # --- parts -----------------------------------------------------------------------------------------------------

    def _owner(self, pid: int = 0, /) -> Owner:
        if pid and self._supervision is not None:
            self.guest_pid()
        if pid and self._pid and pid != self._pid:
            raise NotTheOwner(f"domain {self._domain} has process {self._pid}, not {pid}")
        self._pid = self._pid or pid
        return Owner(self._domain, self.guest_pid())

    def _all(self) -> tuple[Resource, ...]:
        return self._registrar.all_of(self._wanted)

    def _kept(self, lock: Lock, /) -> Lock:
        self._lock = lock
        return lock

    def _current(self) -> Lock:
        lock = self.inquire()
        if lock is None or not lock.held:
            raise NotLocked(f"domain {self._domain} is not locked for any guest of this host")
        return lock


def _for_mode(resource: Resource, /) -> list[Capability]:
    return [Capability.SHARED] if resource.mode is not Mode.EXCLUSIVE else []
