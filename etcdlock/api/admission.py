"""What stands between a connection and the application: who may change anything, and how much anybody may send.

Guaranteed: a body is read whole, within its bounds of size and time, before anything is asked for by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from etcdlock.api.answers import answer_to
from etcdlock.api.bounds import Bounds
from etcdlock.api.peer import Rights
from etcdlock.errors import EtcdlockError, InvalidInput, NotPermitted

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

READING = frozenset({"GET", "HEAD"})

Message = MutableMapping[str, Any]


class Permission:
    """Refuses what the peer may not do. A connection without known rights has none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "http" and not _may(scope["state"].get("rights", Rights.NOTHING), scope["method"]):
            error = NotPermitted(
                "only root and the agent's own user may change anything here", hint="members of api_group may look"
            )
            await refuse(error, 403, scope, receive, send)
            return
        await self._app(scope, receive, send)


class BoundedBody:
    """Refuses bodies that are too large or do not come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        bounds: Bounds = scope["state"]["bounds"]
        try:
            async with asyncio.timeout(bounds.body_seconds):
                body = await _whole(receive, largest=bounds.largest_body)
        except TimeoutError:
            await refuse(InvalidInput("the body did not come in time"), 408, scope, receive, send)
            return
        if body is None:
            error = InvalidInput(f"the body is larger than {bounds.largest_body} bytes")
            await refuse(error, 413, scope, receive, send)
            return
        await self._app(scope, _first({"type": "http.request", "body": body, "more_body": False}, receive), send)


async def refuse(error: EtcdlockError, status: int, scope: Scope, receive: Receive, send: Send, /) -> None:
    """Answer, and end the connection: whatever else was sent over it is not read."""
    _, body = answer_to(error)
    await JSONResponse(body, status, headers={"connection": "close"})(scope, receive, send)


def _may(rights: Rights, method: str) -> bool:
    return rights is Rights.EVERYTHING or (rights is Rights.READ and method in READING)


async def _whole(receive: Receive, /, *, largest: int) -> bytes | None:
    """None if it is too large; what came of it, if the client has gone."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > largest:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _first(message: Message, receive: Receive) -> Receive:
    """Hand out this message, then whatever else comes."""
    left = [message]

    async def receive_next() -> Message:
        return left.pop() if left else await receive()

    return receive_next
