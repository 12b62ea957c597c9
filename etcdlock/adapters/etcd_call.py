"""One call to etcd: pick an endpoint, connect, have a token, send, and say what the outcome means.

A try at one endpoint lasts at most `try_timeout_seconds`, and a call makes at most one round over the endpoints. What
changes something (`once=True`) goes out only over a connection that is up, and is never sent again after an answer that
leaves its outcome open. A stale token is a definite refusal: the call is repeated once with a new one.

Cancelling the caller's task lets `CancelledError` through; the request may have been applied all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import grpc
import grpc.aio

from etcdlock.adapters.etcd_channel import EndpointFailed, Link, Ring, closing_told, says_certificate
from etcdlock.adapters.etcd_errors import CERTIFICATE_HINT, Answer, Meaning, error_from, meaning_of
from etcdlock.adapters.etcd_options import EtcdOptions
from etcdlock.adapters.stubs import Stubs
from etcdlock.errors import AccessDenied, EtcdlockError, Unreachable

Metadata = tuple[tuple[str, str], ...]
Reply = TypeVar("Reply")
Send = Callable[[Link, Metadata, float], Awaitable[Reply]]

# Connecting and authenticating get this share of a try, so that the call itself is never sent with no time to answer.
_CONNECT_SHARE: Final = 0.6


class Tokens:
    """The token that etcd gave for user and password, shared by all calls and fetched by one of them at a time."""

    def __init__(self, options: EtcdOptions, /, *, stubs: Stubs) -> None:
        self._options = options
        self._stubs = stubs
        self._fetching = asyncio.Lock()
        self._token: str | None = None

    async def metadata(self, link: Link, /, *, within_seconds: float) -> Metadata:
        """What to send along. Raises `AccessDenied`, or `EndpointFailed` if this endpoint gave no answer."""
        if not self._options.username:
            return ()
        try:
            async with asyncio.timeout(within_seconds), self._fetching:
                if self._token is None:
                    self._token = await self._fetch(link, within_seconds=within_seconds)
        except TimeoutError:
            answer = Answer(link.endpoint, grpc.StatusCode.DEADLINE_EXCEEDED, "no token in time")
            raise EndpointFailed(answer) from None
        return (("token", self._token),) if self._token else ()

    def discard(self, metadata: Metadata, /) -> bool:
        """Forget the token that was sent, unless a newer one is there; False if there is no user to ask for."""
        if dict(metadata).get("token", "") == (self._token or ""):
            self._token = None
        return bool(self._options.username)

    async def _fetch(self, link: Link, *, within_seconds: float) -> str:
        options = self._options
        request = self._stubs.messages.AuthenticateRequest(name=options.username, password=options.password)
        try:
            response = await link.auth.Authenticate(request, timeout=within_seconds)
        except grpc.aio.AioRpcError as error:
            answer = link.answer(error)
            match meaning_of(answer):
                case Meaning.AUTH_DISABLED:
                    return ""  # etcd wants no token; should that change, it says so and the token is fetched then
                case Meaning.UNCLEAR | Meaning.BUSY:
                    raise EndpointFailed(answer) from None
                case _:
                    raise error_from(answer, sent=False) from None
        return str(response.token)


class Caller:
    """Makes calls for the store, its watches and the inspection."""

    def __init__(self, options: EtcdOptions, /, *, stubs: Stubs) -> None:
        self.ring = Ring(options, stubs=stubs)
        self._tokens = Tokens(options, stubs=stubs)
        self._try_timeout_seconds = options.try_timeout_seconds

    async def call(self, send: Send[Reply], /, *, once: bool) -> Reply:
        """One round over the endpoints; the errors of `ports.Store`."""
        failures: list[EndpointFailed] = []
        for endpoint in self.ring.round():
            try:
                return await self.call_at(endpoint, send=send, once=once)
            except EndpointFailed as failure:
                failures.append(failure)
        raise unreachable(failures)

    async def call_at(self, endpoint: str, /, *, send: Send[Reply], once: bool) -> Reply:
        """One try at one endpoint. Raises `EndpointFailed` where the next one may be tried."""
        async with self.ring.link(endpoint) as link:
            try:
                return await self._with_token(link, send=send, once=once)
            except EndpointFailed as failure:
                self.move_on(link, answer=failure.answer)
                raise

    async def prepare(self, link: Link, /, *, deadline: float) -> Metadata:
        """Connected, and the metadata to send along."""
        await link.ready(within_seconds=_left(deadline))
        return await self._tokens.metadata(link, within_seconds=_left(deadline))

    def discard_token(self, metadata: Metadata, /) -> bool:
        """After a refusal: whether a new token might help."""
        return self._tokens.discard(metadata)

    async def _with_token(self, link: Link, *, send: Send[Reply], once: bool) -> Reply:
        try:
            return await self._attempt(link, send=send, once=once)
        except _StaleToken:
            pass
        try:
            return await self._attempt(link, send=send, once=once)
        except _StaleToken as stale:
            raise error_from(stale.answer, sent=once) from None

    async def _attempt(self, link: Link, *, send: Send[Reply], once: bool) -> Reply:
        start = time.monotonic()
        with closing_told(link.endpoint):
            metadata = await self.prepare(link, deadline=start + _CONNECT_SHARE * self._try_timeout_seconds)
        try:
            with closing_told(link.endpoint):
                return await send(link, metadata, _left(start + self._try_timeout_seconds))
        except grpc.aio.AioRpcError as error:
            answer = link.answer(error)
        except EndpointFailed as failure:
            answer = failure.answer
        raise self._judge(link, answer=answer, metadata=metadata, once=once)

    def _judge(
        self, link: Link, *, answer: Answer, metadata: Metadata, once: bool
    ) -> EtcdlockError | EndpointFailed | _StaleToken:
        meaning = meaning_of(answer)
        if meaning is Meaning.STALE_TOKEN and self.discard_token(metadata):
            return _StaleToken(answer)
        if meaning is Meaning.BUSY or (meaning is Meaning.UNCLEAR and not once):
            return EndpointFailed(answer)
        if meaning is Meaning.UNCLEAR:
            self.move_on(link, answer=answer)
        return error_from(answer, sent=once)

    def move_on(self, link: Link, /, *, answer: Answer) -> None:
        """After a failure: use the next endpoint, and if this one was silent, never this connection again."""
        self.ring.leave(link.endpoint)
        if answer.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            self.ring.retire(link)


class _StaleToken(Exception):
    """etcd did not take the token, and there is a way to get a new one."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(str(answer))
        self.answer = answer


def unreachable(failures: list[EndpointFailed], /) -> EtcdlockError:
    """What a whole round without success means; names each endpoint and what it said."""
    said = "; ".join(str(failure) for failure in failures)
    if says_certificate(failures):
        return AccessDenied(f"No etcd endpoint accepts the certificates: {said}", hint=CERTIFICATE_HINT)
    tls = " An etcd that speaks TLS wants ca_file to be set." if "Socket closed" in said else ""
    return Unreachable(f"No etcd endpoint can be used: {said}", hint=f"See `etcdlock doctor`.{tls}")


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)
