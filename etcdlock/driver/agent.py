"""The driver `agent`: through this host's agent, whose session and guard are those of all its guests.

The management program may end and be started anew as it likes: its guests are the agent's. It needs no access to etcd.
The agent must be the one that is meant: the same cluster, contract, host id and process numbers, or it is not loaded.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from etcdlock.driver.plugin import Capability, Driver, Lock, Opening
from etcdlock.errors import NotLocked
from etcdlock.model import LockState, Mode, Owner, Resource, SessionKind

if TYPE_CHECKING:
    from typing import Self

    from etcdlock.api.client import AgentClient, HeldConnection
    from etcdlock.config import Settings
    from etcdlock.identity import Chain, Link, ResourceName


class AgentDriver(Driver):
    """A client of the agent's API. Every call is a connection of its own, in the caller's thread."""

    name = "agent"
    capabilities = frozenset(Capability)
    cannot_protect = (
        "Writes that were handed to the kernel, the network or the storage before a guest was stopped: use cache=none.",
    )

    @classmethod
    def open(cls, opening: Opening, /) -> Self:
        """Raises `NoAgent` where none listens, and `Refused` where it is another one than is meant."""
        from etcdlock.meeting import Purpose, admitted

        opening.expect_no_options(cls.name)
        settings = opening.settings
        return cls(settings, admitted(settings, settings.api_path, Purpose.RUN))

    def __init__(self, settings: Settings, client: AgentClient, /) -> None:
        from etcdlock.wiring import agent_host_id, chains, namer

        self._settings = settings.model_copy(update={"host_id": agent_host_id(settings, uid=os.geteuid())})
        self._names = namer(self._settings)
        self._chains = chains(self._settings)
        self._client = client
        self._reserved: dict[UUID, HeldConnection] = {}
        self._turn = threading.Lock()

    def close(self) -> None:
        """What was reserved is given back; guests are the agent's."""
        with self._turn:
            for connection in self._reserved.values():
                connection.close()
            self._reserved.clear()

    @property
    def host(self) -> str:
        """The agent's."""
        from etcdlock.wiring import host_id

        return host_id(self._settings)

    def identify(self, path: str, /) -> ResourceName:
        """By the cluster's rule."""
        return self._names.name_now(path)

    @property
    def locks_readonly_disks(self) -> bool:
        """By the cluster's rule."""
        return self._settings.readonly_disks == "shared"

    @property
    def locks_chains(self) -> bool:
        """By the cluster's rule."""
        return self._chains is not None

    def below(self, links: Iterable[Link], /) -> dict[Link, Chain]:
        """As their headers say."""
        return super().below(links) if self._chains is None else self._chains.below_now(links)

    # --- calls -----------------------------------------------------------------------------------------------------

    def acquire(self, owner: Owner, resources: tuple[Resource, ...], /) -> Lock:
        return _lock(self._client.acquire(owner, resources))

    def adopt(self, owner: Owner, resources: tuple[Resource, ...], /) -> Lock:
        return _lock(self._client.attach(owner, resources))

    def release(self, owner: Owner, /) -> None:
        self._client.release(owner.domain.uuid)

    def inquire(self, uuid: UUID, /) -> Lock | None:
        found = self._client.find(uuid)
        return None if found["host"] is None else _lock(found)

    def suspend(self, owner: Owner, /) -> Lock:
        return _lock(self._client.park(owner.domain.uuid))

    def resume(self, owner: Owner, /) -> Lock:
        return _lock(self._client.unpark(owner.domain.uuid))

    def add(self, owner: Owner, resource: Resource, /) -> Lock:
        return _lock(self._client.add(owner.domain.uuid, resource))

    def remove(self, owner: Owner, resource: Resource, /) -> Lock:
        return _lock(self._client.remove(owner.domain.uuid, resource))

    def incoming(self, owner: Owner, resources: tuple[Resource, ...], /, *, run: str) -> Lock:
        return _lock(self._client.incoming(owner, resources, run=run))

    def complete_incoming(self, owner: Owner, /) -> Lock:
        return _lock(self._client.incoming_complete(owner.domain.uuid))

    def cancel_incoming(self, owner: Owner, /) -> None:
        self._client.incoming_cancel(owner.domain.uuid)

    def complete_outgoing(self, owner: Owner, /) -> None:
        self._client.complete(owner.domain.uuid)

    def reserve(self, owner: Owner, resources: tuple[Resource, ...], /) -> Lock:
        connection = self._client.reserve(owner, resources)
        with self._turn:
            self._reserved[owner.domain.uuid] = connection
        return _lock(connection.document)

    def unreserve(self, owner: Owner, /) -> None:
        with self._turn:
            connection = self._reserved.pop(owner.domain.uuid, None)
        if connection is None:
            raise NotLocked(f"nothing is reserved under {owner.domain}")
        connection.close()


def _lock(document: Mapping[str, Any], /) -> Lock:
    """As docs/API.md describes it. What a driver of another program on this host holds is not this one's."""
    return Lock(
        uuid=UUID(document["domain"]["uuid"]),
        name=document["domain"]["name"],
        held=bool(document["held"]) and str(document["session"]).startswith(SessionKind.AGENT),
        host=document["host"] or "",
        state=LockState(document["state"] or LockState.HELD),
        token=document["token"],
        run=document["run"] or "",
        pid=document["pid"] or 0,
        since=document["since"] or "",
        resources=tuple(
            Resource(item["lockspace"], item["name"], Mode(item["mode"]), item["path"])
            for item in document["resources"]
        ),
    )
