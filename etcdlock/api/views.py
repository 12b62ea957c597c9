"""What there is to see, and `break`: the same documents as the command line's with `--json`.

Guaranteed: reading a large cluster does not hold up the agent. Its keys are read and put into words in a thread of
their own, one look at a time.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response

from etcdlock.agent.breaking import words
from etcdlock.agent.namer import Namer
from etcdlock.api.behind import Cluster
from etcdlock.api.desk import Desk
from etcdlock.api.models import LONGEST_TEXT, Confirmation, DomainUuid
from etcdlock.chronicle import tell
from etcdlock.documents import Document, answer_document, broken_document, sessions_document, survey_document
from etcdlock.errors import InvalidInput, Unreachable
from etcdlock.inquiry import Question, answer, asked, check_readable
from etcdlock.model import Mode, Resource
from etcdlock.ports import Snapshot
from etcdlock.survey import Survey, take_survey

_SHOWN: Final[dict[str, Any]] = {"response_class": Response, "tags": ["views"]}

Asked = Annotated[str | None, Query(max_length=LONGEST_TEXT)]


class ViewRoutes:
    """Each call: one look, and the document."""

    def __init__(self, cluster: Cluster, /, *, desk: Desk, namer: Namer) -> None:
        self._cluster = cluster
        self._desk = desk
        self._namer = namer
        self._looking = asyncio.Lock()

    def router(self) -> APIRouter:
        """All of them."""
        router = APIRouter(prefix="/v1")
        described: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}}}}
        for path, endpoint in (
            ("/agent", self.agent),
            ("/status", self.status),
            ("/hosts", self.hosts),
            ("/inquire", self.inquire),
            ("/why", self.why),
            ("/keys", self.keys),
            ("/domains/{uuid}/end", self.end),
        ):
            router.add_api_route(path, endpoint, methods=["GET"], responses=described, **_SHOWN)
        router.add_api_route("/hosts/{host:path}/break", self.declare, methods=["POST"], responses=described, **_SHOWN)
        return router

    async def agent(self, request: Request, guests: bool = True) -> Response:
        """This host's agent: what the caller may do, its session, how long its guests have at least, and the guests."""
        document = {"rights": request.scope["state"]["rights"], **self._cluster.describe_agent(with_guests=guests)}
        return _shown(_encoded(document))

    async def keys(self) -> Response:
        """The cluster's keys as they are at one revision, for programs that read them themselves."""
        snapshot = await self._cluster.snapshot()
        return _shown(await asyncio.to_thread(_encoded_keys, snapshot))

    async def end(self, uuid: DomainUuid, pid: Annotated[int, Query(ge=1)]) -> Response:
        """How a guest ended: `by itself`, `stopped`, or `not known`."""
        return _shown(_encoded({"end": self._cluster.end_of(uuid, pid)}))

    async def status(self) -> Response:
        """All hosts and locks, as `etcdlock status --json`."""
        cluster = self._cluster
        return await self._look(
            lambda survey: survey_document(survey, cluster=cluster.name, needs=cluster.takeover_needs)
        )

    async def hosts(self) -> Response:
        """The hosts and their sessions, as `etcdlock hosts --json`."""
        return await self._look(lambda survey: sessions_document(survey, cluster=self._cluster.name))

    async def inquire(self, domain: Asked = None, disk: Asked = None, mode: Mode = Mode.EXCLUSIVE) -> Response:
        """Who holds a domain (by UUID or name) or a disk (by its path), as `etcdlock inquire --json`."""
        question = await self._question(domain, disk, mode)
        return await self._look(lambda survey: self._answer(survey, question))

    async def why(self, about: Annotated[str, Query(max_length=LONGEST_TEXT)]) -> Response:
        """What happened to a domain (by UUID or name) or a host, as `etcdlock why --json`."""
        async with self._looking:
            try:
                snapshot, trouble = await self._cluster.snapshot(), None
            except Unreachable as error:
                snapshot, trouble = None, str(error)
            return _shown(await asyncio.to_thread(self._account, about, snapshot, trouble))

    def _account(self, about: str, snapshot: Snapshot | None, trouble: str | None, /) -> bytes:
        cluster = self._cluster
        survey = None if snapshot is None else take_survey(snapshot, keys=cluster.keys)
        record, unread = cluster.record()
        told = tell(about, survey, record, host=cluster.host, timing=cluster.timing, needs=cluster.takeover_needs)
        return _encoded({**told, "etcd_error": trouble, "record_error": unread})

    async def declare(
        self, host: Annotated[str, Path(max_length=LONGEST_TEXT)], confirmation: Confirmation
    ) -> Response:
        """Declare a host that is OFF dead, as `etcdlock break --json`. Verify first that it is off."""
        by = words(confirmation.confirmed_by, name="confirmed_by", purpose="who has verified that the host is off")
        reason = words(confirmation.reason, name="reason", purpose="how that is known")
        target = f"{host}/{confirmation.session}" if confirmation.session else host
        broken = await self._desk.see_to(self._cluster.declare_dead(target, by=by, reason=reason))
        return _shown(_encoded(broken_document(target, broken.obituaries, broken.freed)))

    async def _question(self, domain: str | None, disk: str | None, mode: Mode, /) -> Question:
        if (domain is None) == (disk is None):
            raise InvalidInput("inquire: ask about one thing", hint="give domain=UUID or domain=NAME, or disk=PATH")
        if domain is not None:
            return asked(domain)
        path = disk or ""
        if not path.startswith("/"):
            raise InvalidInput(f"inquire: a disk is named by its absolute path, not {path!r}")
        called = await self._namer.name(path)
        return Question(f"disk {path}", resources=(Resource(called.lockspace, called.name, mode, path),))

    def _answer(self, survey: Survey, question: Question, /) -> Document:
        found = answer(survey, question, keys=self._cluster.keys)
        check_readable(question, found)
        return answer_document(question, found, needs=self._cluster.takeover_needs)

    async def _look(self, describe: Callable[[Survey], Document], /) -> Response:
        async with self._looking:
            snapshot = await self._cluster.snapshot()
            return _shown(await asyncio.to_thread(self._described, snapshot, describe))

    def _described(self, snapshot: Snapshot, describe: Callable[[Survey], Document], /) -> bytes:
        return _encoded(describe(take_survey(snapshot, keys=self._cluster.keys)))


def _encoded_keys(snapshot: Snapshot, /) -> bytes:
    found = [
        {
            "key": item.key,
            "value": base64.b64encode(item.value).decode(),
            "create_revision": item.create_revision,
            "mod_revision": item.mod_revision,
            "lease": item.lease,
        }
        for item in snapshot.found
    ]
    return _encoded({"revision": snapshot.revision, "found": found})


def _encoded(document: Document, /) -> bytes:
    return json.dumps(document, default=str).encode()


def _shown(body: bytes, /) -> Response:
    return Response(body, media_type="application/json")
