"""`/v1/domains/…`: what is asked for the guests of this host."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter

from etcdlock.agent.chains import Chains
from etcdlock.agent.judging import named
from etcdlock.agent.namer import Namer
from etcdlock.api.behind import Domains
from etcdlock.api.desk import Desk
from etcdlock.api.models import DomainUuid, IncomingLocks, Lock, StartLocks, Stopped, WantedLocks, WantedResource
from etcdlock.errors import EtcdlockError, Refused, SessionLost, Unreachable
from etcdlock.identity import with_readonly_rule
from etcdlock.model import Resource, StoredDomain

PREFIX: Final = "/v1/domains/{uuid}"


class DomainRoutes:
    """Each call: what was sent, to the program behind, and the lock as it then stands."""

    def __init__(
        self, domains: Domains, /, *, desk: Desk, namer: Namer, chains: Chains | None, readonly_disks: str, host: str
    ) -> None:
        self._domains = domains
        self._desk = desk
        self._namer = namer
        self._chains = chains
        self._readonly_disks = readonly_disks
        self._host = host

    def router(self) -> APIRouter:
        """All of them."""
        routes: dict[str, Callable[..., Awaitable[Lock]]] = {
            "/acquire": self.acquire,
            "/attach": self.attach,
            "/release": self.release,
            "/park": self.park,
            "/unpark": self.unpark,
            "/resources/add": self.add,
            "/resources/remove": self.remove,
            "/migration/prepare": self.prepare,
            "/migration/complete": self.complete,
            "/migration/cancel": self.cancel,
            "/migration/incoming": self.incoming,
            "/migration/incoming/complete": self.incoming_complete,
            "/migration/incoming/cancel": self.incoming_cancel,
        }
        router = APIRouter(prefix=PREFIX)
        for path, endpoint in routes.items():
            tag = "migration" if path.startswith("/migration") else "domains"
            router.add_api_route(path, endpoint, methods=["POST"], tags=[tag])
        router.add_api_route("", self.find, methods=["GET"], tags=["domains"])
        return router

    async def find(self, uuid: DomainUuid) -> Lock:
        """The lock as it stands, whosever it is."""
        return await self._do(uuid, self._domains.find(uuid))

    async def acquire(self, uuid: DomainUuid, wanted: StartLocks) -> Lock:
        """Lock the domain and all its resources, or nothing, for a guest that does not run yet. After a yes it may."""
        owner, resources = wanted.owner(uuid), await self._all(wanted)
        return await self._do(
            uuid, self._domains.acquire(owner, resources, on_session_lost=wanted.on_session_lost)
        )

    async def attach(self, uuid: DomainUuid, wanted: WantedLocks) -> Lock:
        """The same for a guest that runs already, without locks. After a no it runs on, unprotected: stop it."""
        return await self._do(uuid, self._domains.attach(wanted.owner(uuid), await self._all(wanted)))

    async def release(self, uuid: DomainUuid) -> Lock:
        """Make sure that all of it has been given back. The guest's process must have ended."""
        return await self._do(uuid, self._domains.release(uuid))

    async def park(self, uuid: DomainUuid, stopped: Stopped) -> Lock:  # noqa: ARG002 - it is enough that it was said
        """The guest's vCPUs have stopped. They run again only after a yes to `unpark`."""
        return await self._do(uuid, self._domains.park(uuid))

    async def unpark(self, uuid: DomainUuid) -> Lock:
        """The guest's vCPUs are about to run. After a yes they may."""
        return await self._do(uuid, self._domains.unpark(uuid))

    async def add(self, uuid: DomainUuid, wanted: WantedResource) -> Lock:
        """Lock one more resource, before the guest opens it, and where the cluster locks these the images below it."""
        disk, *below = await self._with_chain(wanted)
        return await self._do(uuid, self._add_all(uuid, disk, below))

    async def remove(self, uuid: DomainUuid, wanted: WantedResource) -> Lock:
        """Give one resource back, after the guest has closed it."""
        return await self._do(uuid, self._domains.remove(uuid, await self._held(wanted)))

    async def prepare(self, uuid: DomainUuid, stopped: Stopped) -> Lock:  # noqa: ARG002 - as above
        """On the source, at the switch-over: the vCPUs have stopped, the destination may claim the lock."""
        return await self._do(uuid, self._domains.park(uuid))

    async def complete(self, uuid: DomainUuid) -> Lock:
        """On the source: make sure that the destination has the lock, and forget it. Then the process may be ended."""
        return await self._do(uuid, self._domains.complete(uuid))

    async def cancel(self, uuid: DomainUuid) -> Lock:
        """On the source: the guest is to run on here. After a yes it may; never once the destination has the lock."""
        return await self._do(uuid, self._domains.unpark(uuid))

    async def incoming(self, uuid: DomainUuid, wanted: IncomingLocks) -> Lock:
        """On the destination: claim the lock for the process that takes the guest in, once the source parks it."""
        return await self._do(uuid, self._domains.incoming(wanted.owner(uuid), await self._all(wanted), run=wanted.run))

    async def incoming_complete(self, uuid: DomainUuid) -> Lock:
        """On the destination: the guest has arrived. After a yes its vCPUs may run, and there is no way back."""
        return await self._do(uuid, self._domains.incoming_complete(uuid))

    async def incoming_cancel(self, uuid: DomainUuid) -> Lock:
        """On the destination: the guest does not arrive. The lock is the source's again, as it was."""
        return await self._do(uuid, self._domains.incoming_cancel(uuid))

    async def _do(self, uuid: UUID, work: Coroutine[Any, Any, StoredDomain | None], /) -> Lock:
        return Lock.of(uuid, await self._desk.see_to(work), host=self._host)

    async def _all(self, wanted: WantedLocks, /) -> tuple[Resource, ...]:
        links = [one.link for one in wanted.resources]
        found = await self._chains.below(filter(None, links)) if self._chains is not None else {}
        names = await self._namer.names(wanted.paths(found))
        return with_readonly_rule(wanted.named(names.__getitem__, chains=found), rule=self._readonly_disks)

    async def _with_chain(self, wanted: WantedResource, /) -> tuple[Resource, ...]:
        """What was asked for, and behind it the images below it."""
        return await self._all(WantedLocks(pid=1, resources=(wanted,)))

    async def _add_all(self, uuid: UUID, disk: Resource, below: list[Resource], /) -> StoredDomain:
        """The disk last: with it the guest may open all of them. A no gives back what was added for it."""
        added: list[Resource] = []
        try:
            for layer in below:
                before = await self._domains.find(uuid)
                await self._domains.add(uuid, layer)
                if before is not None and not named(layer, among=before.record.resources):
                    added.append(layer)
            return await self._domains.add(uuid, disk)
        except (Refused, SessionLost, Unreachable):
            for layer in added:
                with suppress(EtcdlockError):
                    await self._domains.remove(uuid, layer)
            raise

    async def _one(self, wanted: WantedResource, /) -> Resource:
        names = await self._namer.names(wanted.paths)
        return with_readonly_rule((wanted.named(names.__getitem__).resource,), rule=self._readonly_disks)[0]

    async def _held(self, wanted: WantedResource, /) -> Resource:
        """What a guest has. Where names depend on what is found at a path, that is not looked at again."""
        if self._namer.looks and wanted.paths:
            return Resource("", "", wanted.mode, wanted.path)
        return await self._one(wanted)
