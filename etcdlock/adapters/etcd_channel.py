"""Connections to etcd: one gRPC channel per endpoint, made when first needed, and which of them is in use.

The endpoint in use stays in use until it fails or falls silent; then it is the next one's turn. A connection that fell
silent is replaced, not waited for: TCP may need minutes to notice that a path works again. gRPC's own retries are
switched off, so what is sent is sent once.

Every channel has a connection of its own; nothing is shared with other users of gRPC in this process, and no proxy
from the environment is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import grpc
import grpc.aio

from etcdlock.adapters.etcd_errors import Answer, Meaning, blames_certificate, meaning_of
from etcdlock.adapters.etcd_options import EtcdOptions, read_credentials
from etcdlock.adapters.stubs import Stubs

_CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel would be handed the silent connection again
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),  # also the time one attempt to connect is given
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),  # etcd hangs up on clients that ping more often than every 5 s
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", -1),  # etcd decides what is too large, and says so
    ("grpc.max_receive_message_length", -1),
)


class EndpointFailed(Exception):
    """One endpoint could not be used, and what was asked of it was not done there. Stays inside the adapter."""

    def __init__(self, answer: Answer, /) -> None:
        super().__init__(str(answer))
        self.answer = answer


@contextmanager
def closing_told(endpoint: str, /) -> Iterator[None]:
    """Closing a channel cancels what runs over it: here that becomes `EndpointFailed`.

    The cancellation of our caller's own task passes through.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise EndpointFailed(_closed(endpoint)) from None
    except grpc.aio.UsageError:  # a call that begins on a channel which is closed already
        raise EndpointFailed(_closed(endpoint)) from None


def _closed(endpoint: str) -> Answer:
    return Answer(endpoint, grpc.StatusCode.CANCELLED, "the store was closed")


class Link:
    """A channel to one endpoint and the stubs that speak over it."""

    def __init__(self, endpoint: str, /, *, channel: grpc.aio.Channel, stubs: Stubs) -> None:
        self.endpoint = endpoint
        self.kv: Any = stubs.services.KVStub(channel)
        self.lease: Any = stubs.services.LeaseStub(channel)
        self.watch: Any = stubs.services.WatchStub(channel)
        self.auth: Any = stubs.services.AuthStub(channel)
        self.maintenance: Any = stubs.services.MaintenanceStub(channel)
        self.users = 0
        self.retired = False
        self._stubs = stubs
        self._channel = channel

    async def ready(self, *, within_seconds: float) -> None:
        """Make sure that a member of etcd with a leader answers here. Raises `EndpointFailed` with the reason.

        A connected channel costs nothing. Otherwise etcd is asked for its status, because only a call, and not the
        channel's state, says why there is no connection.
        """
        if self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return
        request = self._stubs.messages.StatusRequest()
        try:
            status = await self.maintenance.Status(request, timeout=within_seconds)
        except grpc.aio.AioRpcError as error:
            answer = self.answer(error)
            if meaning_of(answer) in (Meaning.UNCLEAR, Meaning.BUSY):
                raise EndpointFailed(answer) from None
            return  # etcd answers; whether it lets us in, the call itself will show
        if not status.leader:
            raise EndpointFailed(Answer(self.endpoint, grpc.StatusCode.UNAVAILABLE, "it sees no leader"))

    def answer(self, error: grpc.aio.AioRpcError, /) -> Answer:
        text = error.details() or ""
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            text = "no answer in time"
        return Answer(self.endpoint, error.code(), text)

    async def close(self) -> None:
        """Calls under way end with a cancellation."""
        await self._channel.close(None)


class Ring:
    """The endpoints and which one is in use."""

    def __init__(self, options: EtcdOptions, /, *, stubs: Stubs) -> None:
        self._options = options
        self._stubs = stubs
        self._credentials = read_credentials(options)
        self._links: dict[str, Link] = {}
        self._all: set[Link] = set()
        self._current = 0
        self.closed = False

    @property
    def current(self) -> str:
        """The one in use."""
        return self._options.endpoints[self._current]

    def round(self) -> Iterator[str]:
        """Every endpoint once, the one in use first."""
        endpoints, start = self._options.endpoints, self._current
        return iter(endpoints[start:] + endpoints[:start])

    def leave(self, endpoint: str, /) -> None:
        """It failed: unless somebody has moved on already, the next endpoint is in use from now on."""
        endpoints = self._options.endpoints
        if endpoints[self._current] == endpoint:
            self._current = (self._current + 1) % len(endpoints)

    @asynccontextmanager
    async def link(self, endpoint: str, /) -> AsyncIterator[Link]:
        """The connection to an endpoint, kept at least until the block ends. Raises `EndpointFailed` once closed."""
        if self.closed:
            raise EndpointFailed(_closed(endpoint))
        link = self._links.get(endpoint)
        if link is None:
            link = self._links[endpoint] = self._open(endpoint)
            self._all.add(link)
        link.users += 1
        try:
            yield link
        finally:
            link.users -= 1
            if link.retired and not link.users:
                self._all.discard(link)
                await link.close()

    def retire(self, link: Link, /) -> None:
        """It fell silent: it is given to nobody any more, and closed by the last who uses it."""
        link.retired = True
        if self._links.get(link.endpoint) is link:
            del self._links[link.endpoint]

    async def close(self) -> None:
        """For good: no connection is opened any more."""
        self.closed = True
        self._links.clear()
        while self._all:
            await self._all.pop().close()

    def _open(self, endpoint: str) -> Link:
        if self._credentials is None:
            channel = grpc.aio.insecure_channel(endpoint, options=_CHANNEL_OPTIONS)
        else:
            channel = grpc.aio.secure_channel(endpoint, self._credentials, options=_CHANNEL_OPTIONS)
        return Link(endpoint, channel=channel, stubs=self._stubs)


def says_certificate(failures: list[EndpointFailed], /) -> bool:
    """Whether every endpoint failed over a certificate."""
    return bool(failures) and all(blames_certificate(failure.answer) for failure in failures)
