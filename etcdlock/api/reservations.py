"""`/v1/reservations/…`: disks held for a process that is no guest, for as long as the connection lasts.

Guaranteed: when the connection ends, however it ends, or the process does, what was reserved is given back, also if
the answer was lost before; while etcd does not answer that is tried again. If the agent ends first, it is kept until
the process ends: nobody could have said that it does not write any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from etcdlock.agent.chains import Chains
from etcdlock.agent.namer import Namer
from etcdlock.api.behind import Domains
from etcdlock.api.desk import Desk
from etcdlock.api.models import DomainUuid, Lock, ReservedLocks
from etcdlock.domainxml import DomainXml, chains_of, named_of, parse_domain, paths_of, with_chains
from etcdlock.errors import EtcdlockError, InvalidInput, NotReady, OutcomeUnknown, Refused, SessionLost, Unreachable
from etcdlock.identity import check_reservable, distinct, of_domain, with_readonly_rule
from etcdlock.journal import note
from etcdlock.model import Owner, Resource

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

KEEP_ALIVE_SECONDS = 15.0
AGAIN_SECONDS = 1.0
"""After what could not be given back since etcd did not answer."""


class ReservationRoutes:
    """One call."""

    def __init__(
        self, domains: Domains, /, *, desk: Desk, namer: Namer, chains: Chains | None, readonly_disks: str, host: str
    ) -> None:
        self._domains = domains
        self._desk = desk
        self._namer = namer
        self._chains = chains
        self._readonly_disks = readonly_disks
        self._host = host
        self._standing: set[UUID] = set()
        """What is asked for, held or not given back yet."""
        self._trying: set[asyncio.Task[None]] = set()

    def router(self) -> APIRouter:
        """`POST /v1/reservations/{uuid}`."""
        router = APIRouter()
        router.add_api_route(
            "/v1/reservations/{uuid}",
            self.reserve,
            methods=["POST"],
            tags=["reservations"],
            response_model=Lock,
            summary="Hold disks for a process that is no guest, for as long as this connection lasts",
        )
        return router

    async def reserve(self, uuid: DomainUuid, wanted: ReservedLocks, request: Request) -> StreamingResponse:
        """The first line of the answer is the lock; then come empty lines, every few seconds, and no end."""
        owner, resources = wanted.owner(uuid, caller=request.state.pid), await self._all(wanted)
        if uuid in self._standing:
            what = f"reservation {uuid} is held over another connection, or is about to be given back"
            raise Refused(what, hint="use a fresh UUID; or ask again once that connection has ended")
        if self._domains.holds(uuid):  # the end of this connection would give back what a guest has, and runs on
            hint = "use a fresh UUID: a reservation locks disks, and no domain"
            raise Refused(f"domain {uuid} is locked on this host already", hint=hint)
        self._standing.add(uuid)
        try:
            stored = await self._desk.see_to(self._domains.acquire(owner, resources))
        except (InvalidInput, Refused):
            self._standing.discard(uuid)
            raise
        except BaseException:  # it may have been done, or may be yet, and nobody holds the connection for it
            self._keep_trying(owner)
            raise
        lock = Lock.of(uuid, stored, host=self._host)
        request.state.need_not_be_read = True  # whoever waits for something else must not lose its disks by that
        return _Held(self._left, owner, lock.model_dump_json())

    async def _all(self, wanted: ReservedLocks, /) -> tuple[Resource, ...]:
        """Of all domains and by themselves, with the images below."""
        xmls = self._parsed(wanted)
        links = [*(one.link for one in wanted.resources), *(link for xml in xmls for link in chains_of(xml))]
        found = await self._chains.below(filter(None, links)) if self._chains is not None else {}
        whole = [with_chains(xml, chain=found.__getitem__) for xml in xmls]
        names = await self._namer.names((*wanted.paths(found), *(path for xml in whole for path in paths_of(xml))))
        all_named = wanted.all_named(names.__getitem__, chains=found)
        for one, xml in zip(wanted.domains, whole, strict=True):
            disks = named_of(xml, identify=names.__getitem__)
            all_named += (of_domain(named, xml.domain.name, readonly=one.readonly) for named in disks)
        return check_reservable(with_readonly_rule(distinct(all_named), rule=self._readonly_disks))

    def _parsed(self, wanted: ReservedLocks, /) -> list[DomainXml]:
        """Raises `InvalidDomainXml`. What they hand to their guests and is not reserved is in the log."""
        chains = self._chains is not None
        xmls = [parse_domain(one.xml, source=f"domains.{n}.xml", chains=chains) for n, one in enumerate(wanted.domains)]
        for xml in xmls:
            for warning in xml.warnings:
                note("not_reserved", level=logging.WARNING, domain=xml.domain, warning=warning)
        return xmls

    async def _left(self, owner: Owner, /) -> None:
        """Its connection has ended."""
        if not await self._gives_back(owner):
            self._keep_trying(owner)

    async def _gives_back(self, owner: Owner, /) -> bool:
        """Whether that need not be tried again. The desk notes what went wrong."""
        try:
            await self._desk.see_to(self._domains.give_back(owner))
        except (NotReady, OutcomeUnknown, SessionLost, Unreachable):
            return False
        except EtcdlockError:  # its process has ended, or it is another's
            pass
        self._standing.discard(owner.domain.uuid)
        return True

    def _keep_trying(self, owner: Owner, /) -> None:
        task = asyncio.ensure_future(self._until_given_back(owner))
        self._trying.add(task)
        task.add_done_callback(self._trying.discard)

    async def _until_given_back(self, owner: Owner, /) -> None:
        while not await self._gives_back(owner):
            await asyncio.sleep(AGAIN_SECONDS)


class _Held(StreamingResponse):
    """Whatever becomes of the answer, also if it never began, what it stands for is given back after it."""

    def __init__(self, give_back: Any, owner: Owner, first: str, /) -> None:
        super().__init__(_lines(first), media_type="application/json", headers={"Cache-Control": "no-store"})
        self._give_back = give_back
        self._owner = owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(asyncio.ensure_future(self._give_back(self._owner)))


async def _lines(first: str, /) -> AsyncIterator[str]:
    yield f"{first}\n"
    while True:
        await asyncio.sleep(KEEP_ALIVE_SECONDS)
        yield "\n"
