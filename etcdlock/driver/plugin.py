"""What a driver of the lock manager is: its version, what it declares, and what it can be asked.

A driver is found through an entry point of the group `etcdlock.drivers`, which names a subclass of `Driver`; so others
can add theirs. What it declares in `capabilities` is proved by the contract suite (`tests/driver`); what it does not
declare is refused by `LockManager` before the driver is asked, with `NotSupported`.

Every method may be called from any number of threads at once, and again after its answer was lost: what was done is
then a success. Errors are those of `etcdlock.errors`, and mean what they mean everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar
from uuid import UUID

from etcdlock.errors import InvalidInput, NotSupported
from etcdlock.model import LockState, Owner, Resource

if TYPE_CHECKING:
    from typing import Self

    from etcdlock.config import Settings
    from etcdlock.identity import Chain, Link, ResourceName

API_VERSION = 1
"""Of what is written here. A driver of version N keeps to every version up to N."""


class Capability(StrEnum):
    """What a driver may declare."""

    EXCLUSION = "exclusion"
    """What one guest holds is refused to all others that ask this driver."""
    CLUSTER = "cluster"
    """… on all hosts of the cluster, whatever the storage."""
    STOPPING = "stopping"
    """A guest whose locks can no longer be proven is stopped before others may have them."""
    TOKEN = "token"  # noqa: S105 - a fencing token is no secret
    """Every ownership has a fencing token, which grows with every change of owner."""
    RESOURCES = "resources"
    """Disks and other resources are locked with the domain, all or none."""
    SHARED = "shared"
    """… also in shared mode."""
    HOTPLUG = "hotplug"
    """Resources come and go while the guest runs."""
    SUSPEND = "suspend"
    """The guest's vCPUs may stop and go on under the same ownership, which a state string tells."""
    MIGRATION = "migration"
    """Ownership goes to another host in one step, and may go back until the guest runs there."""
    BY_PID = "by pid"
    """A guest's process need not come through the supervisor: it is enough to know its pid."""
    ADOPT = "adopt"
    """A guest that runs already, without locks, can be given them."""
    ATTACH = "attach"
    """Guests keep their locks when the management program ends, and are found again by the next."""
    RESERVE = "reserve"
    """Resources can be held for a process that is no guest, and given back while it lives."""


@dataclass(frozen=True, slots=True)
class Lock:
    """A domain's lock as it stands.

    `held`: whether this host has it, through this driver. `run` changes each time that the guest is let run. `token` is
    None where the driver declares none; `pid` 0 where no process is known; `since` is for people.
    """

    uuid: UUID
    name: str
    held: bool
    host: str = ""
    state: LockState = LockState.HELD
    token: int | None = None
    run: str = ""
    pid: int = 0
    since: str = ""
    resources: tuple[Resource, ...] = ()


@dataclass(frozen=True, slots=True)
class Opening:
    """What a driver is opened with: etcdlock's settings, and options of its own, which it checks itself."""

    settings: Settings
    options: Mapping[str, str] = field(default_factory=dict)

    def expect_no_options(self, driver: str, /) -> None:
        """For a driver that has none. Raises `InvalidInput`."""
        if self.options:
            raise InvalidInput(f"driver {driver!r} has no option {min(self.options)!r}: its settings say it all")


class Driver(ABC):
    """Subclass it, declare, and answer for what is declared. The rest refuses by itself."""

    name: ClassVar[str]
    version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[frozenset[Capability]]
    cannot_protect: ClassVar[tuple[str, ...]] = ()
    """What its users must know, a sentence each."""

    @classmethod
    @abstractmethod
    def open(cls, opening: Opening, /) -> Self:
        """Ready to be asked. Whatever it raises means that no domain may start."""

    @abstractmethod
    def close(self) -> None:
        """Let go. Guests that run keep their locks. Called once, when nobody has it loaded any more."""

    @property
    @abstractmethod
    def host(self) -> str:
        """This host's id, as the driver's locks name it."""

    @abstractmethod
    def identify(self, path: str, /) -> ResourceName:
        """What a disk is called on every host that shares the driver's locks."""

    @property
    def locks_readonly_disks(self) -> bool:
        """Whether a read-only disk takes a shared lock; else it takes none."""
        return False

    @property
    def locks_chains(self) -> bool:
        """Whether the images below a disk take shared locks; then `below` tells which these are."""
        return False

    def below(self, links: Iterable[Link], /) -> dict[Link, Chain]:
        """What lies below each of these images. Raises `NotIdentified` where that cannot be told."""
        from etcdlock.identity import Chain

        return {link: Chain() for link in links}

    @abstractmethod
    def acquire(self, owner: Owner, resources: tuple[Resource, ...], /) -> Lock:
        """Lock the domain and all of these for a process that does not run the guest yet, or nothing."""

    @abstractmethod
    def release(self, owner: Owner, /) -> None:
        """The guest's process has ended: see to it that all is given back. Raises `Refused` while it lives."""

    @abstractmethod
    def inquire(self, uuid: UUID, /) -> Lock | None:
        """Who has the domain, whoever that is; None if nobody is known to."""

    def pass_on(self, owner: Owner, /) -> tuple[int, ...]:
        """Descriptors that the guest's process is given before it runs, and inherits."""
        del owner
        return ()

    def passed_on(self, owner: Owner, /) -> None:
        """The guest has them now, or has ended before: the driver's own are not needed any more."""
        del owner

    # --- what must be declared -------------------------------------------------------------------------------------

    def adopt(self, owner: Owner, resources: tuple[Resource, ...], /) -> Lock:
        """As `acquire`, for a guest that runs already. After a no it runs on, unprotected: stop it. `ADOPT`."""
        raise self._lacks(Capability.ADOPT)

    def suspend(self, owner: Owner, /) -> Lock:
        """Its vCPUs have stopped, and go on only after a yes to `resume`. `SUSPEND`."""
        raise self._lacks(Capability.SUSPEND)

    def resume(self, owner: Owner, /) -> Lock:
        """Its vCPUs are about to go on. Raises `Superseded` once another has the domain. `SUSPEND`."""
        raise self._lacks(Capability.SUSPEND)

    def add(self, owner: Owner, resource: Resource, /) -> Lock:
        """One more resource, before the guest opens it. `HOTPLUG`."""
        raise self._lacks(Capability.HOTPLUG)

    def remove(self, owner: Owner, resource: Resource, /) -> Lock:
        """One resource less, after the guest has closed it. `HOTPLUG`."""
        raise self._lacks(Capability.HOTPLUG)

    def incoming(self, owner: Owner, resources: tuple[Resource, ...], /, *, run: str) -> Lock:
        """On the destination: claim what the source has suspended, if it is still the run that the guest takes in.

        Raises `HeldElsewhere` where the source has not suspended it within the driver's bound. `MIGRATION`.
        """
        raise self._lacks(Capability.MIGRATION)

    def complete_incoming(self, owner: Owner, /) -> Lock:
        """On the destination: the vCPUs are about to run; there is no way back. Of a guest that may run already it is a
        success. `MIGRATION`.
        """
        raise self._lacks(Capability.MIGRATION)

    def cancel_incoming(self, owner: Owner, /) -> None:
        """On the destination: what was claimed is the source's again. `MIGRATION`."""
        raise self._lacks(Capability.MIGRATION)

    def complete_outgoing(self, owner: Owner, /) -> None:
        """On the source: make sure that another host has claimed the domain. Raises `NotClaimed`. `MIGRATION`."""
        raise self._lacks(Capability.MIGRATION)

    def reserve(self, owner: Owner, resources: tuple[Resource, ...], /) -> Lock:
        """Hold these for a process that is no guest, until it ends or `unreserve`. `RESERVE`."""
        raise self._lacks(Capability.RESERVE)

    def unreserve(self, owner: Owner, /) -> None:
        """Give back what is reserved: the process does not use it any more. `RESERVE`."""
        raise self._lacks(Capability.RESERVE)

    def _lacks(self, capability: Capability, /) -> NotSupported:
        return lacking(self.name, capability)


def lacking(name: str, capability: Capability, /) -> NotSupported:
    """The refusal of what a driver has not declared."""
    return NotSupported(
        f"driver {name!r} does not have the capability {capability.value!r}",
        hint="docs/DRIVERS.md says which driver has it; load(name, require=…) refuses one that lacks it beforehand",
    )
