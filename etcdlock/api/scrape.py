"""The agent's numbers over TCP, for a Prometheus that reads them from another machine; off unless a setting says where.

Guaranteed: only `GET /metrics` is answered there, within the same bounds of number, size and time as the rest of the
API. Whoever connects can change nothing and learn nothing else.

Not guaranteed: who reads. There is neither a password nor TLS: listen where only the monitoring network comes.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from etcdlock.api.admission import BoundedBody
from etcdlock.api.answers import answer_to
from etcdlock.api.metrics import Metrics
from etcdlock.api.peer import Peer, Rights, Rules
from etcdlock.errors import InvalidInput, InvalidSetting

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

BACKLOG = 64


@dataclass(frozen=True, slots=True)
class Everybody(Rules):
    """The kernel does not say who is at the other end of a TCP connection: everybody may look."""

    def rights_of(self, peer: Peer, /) -> Rights:
        """At what is served there."""
        del peer
        return Rights.READ


@dataclass(frozen=True, slots=True)
class TcpListener:
    """A socket that listens at `path`, which here is ADDRESS:PORT."""

    socket: socket.socket
    path: str
    inode: int | None = None

    def remove(self) -> None:
        """There is no file."""


def application(metrics: Metrics, /) -> ASGIApp:
    """`GET /metrics` and no other call."""

    async def page(request: Request) -> Response:
        del request
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    async def refused(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", HTTPStatus.NOT_FOUND)
        _, body = answer_to(InvalidInput(f"there is no {request.method} {request.url.path} here", hint="GET /metrics"))
        return JSONResponse(body, status)

    refusals = dict.fromkeys((HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED), refused)
    return BoundedBody(Starlette(routes=[Route("/metrics", page)], exception_handlers=refusals))


def listen_at(place: str, /) -> TcpListener:
    """The listening socket at ADDRESS:PORT. Raises `InvalidSetting` for a place that cannot be had.

    No name is looked up: heartbeats do not wait for a name server.
    """
    host, _, port = place.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        made = socket.create_server((str(address), int(port)), family=family, backlog=BACKLOG)
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"metrics_listen is {place!r}: cannot listen there: {error}") from error
    made.setblocking(False)
    return TcpListener(made, place)
