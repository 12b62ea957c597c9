"""What the API needs of the program behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from uuid import UUID

from etcdlock.agent.breaking import Broken
from etcdlock.agent.endings import End
from etcdlock.escalation import Action
from etcdlock.identity import ResourceName
from etcdlock.keyspace import Keyspace
from etcdlock.model import Owner, Resource, StoredDomain
from etcdlock.ports import Snapshot
from etcdlock.timing import Timing

Identify = Callable[[str], ResourceName]


class Domains(Protocol):
    """What may be asked for the guests of this host. Every call may be repeated: what is done already is a success.

    What comes back is the domain's record as it now stands, whosever it is; None where nobody is known to hold it.
    """

    async def acquire(
        self, owner: Owner, resources: tuple[Resource, ...], /, *, on_session_lost: Action | None = None
    ) -> StoredDomain:
        """For a guest that does not run yet: the domain with all of it, or nothing."""
        ...

    async def attach(self, owner: Owner, resources: tuple[Resource, ...], /) -> StoredDomain:
        """The same for a guest that runs already."""
        ...

    async def release(self, uuid: UUID, /) -> None:
        """The guest is gone: all of it is given back."""
        ...

    async def find(self, uuid: UUID, /) -> StoredDomain | None:
        """The domain as it stands."""
        ...

    def holds(self, uuid: UUID, /) -> bool:
        """Whether it is known to be held here."""
        ...

    async def give_back(self, owner: Owner, /) -> None:
        """A process that is no guest does not use any more what it has reserved."""
        ...

    async def park(self, uuid: UUID, /) -> StoredDomain:
        """Its vCPUs have stopped."""
        ...

    async def unpark(self, uuid: UUID, /) -> StoredDomain:
        """Its vCPUs are about to run."""
        ...

    async def add(self, uuid: UUID, resource: Resource, /) -> StoredDomain:
        """It gets one more resource."""
        ...

    async def remove(self, uuid: UUID, resource: Resource, /) -> StoredDomain:
        """It has closed a resource."""
        ...

    async def complete(self, uuid: UUID, /) -> StoredDomain | None:
        """It has migrated away."""
        ...

    async def incoming(self, owner: Owner, resources: tuple[Resource, ...], /, *, run: str = "") -> StoredDomain:
        """It migrates in."""
        ...

    async def incoming_complete(self, uuid: UUID, /) -> StoredDomain:
        """It has migrated in and is about to run."""
        ...

    async def incoming_cancel(self, uuid: UUID, /) -> StoredDomain | None:
        """It does not migrate in."""
        ...


class Cluster(Protocol):
    """What this host sees of its cluster."""

    @property
    def name(self) -> str:
        """The cluster's."""
        ...

    @property
    def host(self) -> str:
        """Who this host is in it."""
        ...

    @property
    def keys(self) -> Keyspace:
        """Where its keys lie."""
        ...

    @property
    def takeover_needs(self) -> str:
        """Its rule of that name."""
        ...

    async def snapshot(self) -> Snapshot:
        """All of its keys at one revision."""
        ...

    @property
    def timing(self) -> Timing:
        """Its timing."""
        ...

    def record(self) -> tuple[list[dict[str, Any]], str | None]:
        """What this host has on record, and if that cannot be read why. It waits for the disk: for a thread."""
        ...

    async def declare_dead(self, target: str, /, *, by: str, reason: str) -> Broken:
        """On an operator's word."""
        ...

    def end_of(self, uuid: UUID, pid: int, /) -> End:
        """How a guest of this host ended."""
        ...

    def describe_agent(self, *, with_guests: bool = True) -> dict[str, Any]:
        """This host's agent, as a document."""
        ...
