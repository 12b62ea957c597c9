"""The application: every route, and every error as one kind of JSON document.

Guaranteed: whatever goes wrong is answered with `error`, `message`, `hint`, `blockers` and `outcome`; a fault of ours
as an unknown outcome, since it may have come after the deed. Who may call what is settled before (`admission`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import etcdlock
from etcdlock.agent.chains import Chains
from etcdlock.agent.namer import Namer
from etcdlock.api.admission import BoundedBody, Permission
from etcdlock.api.answers import TABLE, answer_to
from etcdlock.api.behind import Cluster, Domains
from etcdlock.api.desk import Desk
from etcdlock.api.domains import DomainRoutes
from etcdlock.api.models import Failure
from etcdlock.api.reservations import ReservationRoutes
from etcdlock.api.views import ViewRoutes
from etcdlock.errors import EtcdlockError, InvalidInput

_ABOUT: Final = "Locks for the guests of this host, and a look at the cluster. See docs/API.md."


def create_app(
    domains: Domains,
    cluster: Cluster,
    /,
    *,
    namer: Namer,
    views_namer: Namer | None = None,
    chains: Chains | None = None,
    readonly_disks: str,
    answer_seconds: float,
    extra_routers: Sequence[APIRouter] = (),
) -> FastAPI:
    """`answer_seconds` bounds what a caller waits for; a little more than the program behind takes by itself.

    `views_namer` names for those who only look, where another names for those who lock.
    """
    desk = Desk(answer_seconds=answer_seconds)
    app = FastAPI(
        title="etcdlock agent",
        description=_ABOUT,
        version=etcdlock.__version__,
        docs_url=None,  # they would have a browser fetch scripts from elsewhere
        redoc_url=None,
        responses=_failures(),
    )
    app.include_router(
        DomainRoutes(
            domains, desk=desk, namer=namer, chains=chains, readonly_disks=readonly_disks, host=cluster.host
        ).router()
    )
    app.include_router(ViewRoutes(cluster, desk=desk, namer=views_namer or namer).router())
    reservations = ReservationRoutes(
        domains, desk=desk, namer=namer, chains=chains, readonly_disks=readonly_disks, host=cluster.host
    )
    app.include_router(reservations.router())
    for router in extra_routers:
        app.include_router(router)
    app.add_exception_handler(EtcdlockError, _failed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_such_route)
    app.add_exception_handler(Exception, _fault)
    app.add_middleware(BoundedBody)
    app.add_middleware(Permission)  # the first to be asked
    return app


def _failures() -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document: every status of the table, with the errors that have it."""
    classes: dict[int | str, list[str]] = {}
    for kind, status, outcome in TABLE:
        classes.setdefault(status, []).append(f"{kind.__name__} ({outcome})")
    return {status: {"model": Failure, "description": ", ".join(names)} for status, names in classes.items()}


async def _failed(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EtcdlockError)  # noqa: S101 - what it is registered for
    status, body = answer_to(error)
    return JSONResponse(body, status)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    """The first mistake in words. What was sent is not repeated."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    mistake = error.errors()[0]
    where = ".".join(str(part) for part in mistake["loc"])
    status, body = answer_to(InvalidInput(f"{where}: {mistake['msg']}", hint="/openapi.json says what is expected"))
    return JSONResponse(body, status)


async def _no_such_route(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    _, body = answer_to(InvalidInput(str(error.detail), hint="/openapi.json lists what there is"))
    return JSONResponse(body, error.status_code, headers=error.headers)


async def _fault(_request: Request, _error: Exception) -> JSONResponse:
    """The server logs it."""
    status, body = answer_to(EtcdlockError("the agent has a fault; its log tells which", hint="please report it"))
    return JSONResponse(body, status)
