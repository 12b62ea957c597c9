"""Watching several ranges as one stream of events that survives reconnection.

etcd orders events within one watch, not between two; so one watch spans all the ranges and what lies between them is
dropped here. That gives strict revision order, and one number from which to resume: etcd never splits a revision over
two answers. The price is that changes to keys between the ranges travel too.

A stream that is silent may be one whose endpoint hangs: every few seconds without an event the endpoint is asked for a
linearizable read, and without an answer the watch moves on to another one.

It does not promise that an event comes at all while an endpoint answers reads and stalls watches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

import grpc
import grpc.aio
from grpc.aio import EOF

from etcdlock.adapters import etcd_convert as convert
from etcdlock.adapters.etcd_call import Caller, Metadata, unreachable
from etcdlock.adapters.etcd_channel import EndpointFailed, Link, closing_told, says_certificate
from etcdlock.adapters.etcd_errors import Answer, Meaning, error_from, meaning_of
from etcdlock.adapters.stubs import Stubs
from etcdlock.errors import AccessDenied, WatchCancelled, WatchCompacted
from etcdlock.ports import Event, KeyRange

_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 1.0
_DENIALS: Final = ("permission denied", "invalid auth token", "auth store is old", "user name is empty")


class Watch:
    """One call of `Store.watch`."""

    def __init__(
        self, ranges: Sequence[KeyRange], /, *, after_revision: int, caller: Caller, stubs: Stubs, try_seconds: float
    ) -> None:
        self._ranges = tuple(ranges)
        self._next_revision = after_revision + 1
        self._caller = caller
        self._stubs = stubs
        self._try_seconds = try_seconds
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._token_is_doubted = False
        self._established = False

    async def events(self) -> AsyncGenerator[Event, None]:
        """Until closed, or until `WatchCompacted`, `WatchCancelled` or `AccessDenied`."""
        while True:
            failures: list[EndpointFailed] = []
            for endpoint in self._caller.ring.round():
                self._established = False
                try:
                    async with aclosing(self._events_from(endpoint)) as events:
                        async for event in events:
                            yield event
                except EndpointFailed as failure:
                    failures.append(failure)
                if self._established:
                    break
            else:
                if says_certificate(failures):
                    raise unreachable(failures)
            if self._caller.ring.closed:
                raise WatchCancelled("The store was closed while it was being watched.")
            await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(self._pause_seconds)
        self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)

    async def _events_from(self, endpoint: str) -> AsyncGenerator[Event, None]:
        async with self._caller.ring.link(endpoint) as link:
            try:
                with closing_told(endpoint):
                    async with aclosing(self._responses(link)) as responses:
                        async for response in responses:
                            for event in self._wanted(response):
                                yield event
                            self._resume_after(response)
            except EndpointFailed as failure:
                self._caller.move_on(link, answer=failure.answer)
                raise

    def _wanted(self, response: Any) -> list[Event]:
        events = map(convert.event, response.events)
        return [event for event in events if any(convert.covers(where, key=event.key) for where in self._ranges)]

    def _resume_after(self, response: Any) -> None:
        """Only once all its events are with the caller: they are of one revision or of several."""
        if response.events:
            self._next_revision = response.events[-1].kv.mod_revision + 1

    async def _responses(self, link: Link) -> AsyncGenerator[Any, None]:
        """What etcd sends on one stream, which ends with this generator. Returns where connecting anew is in order."""
        metadata = await self._caller.prepare(link, deadline=time.monotonic() + self._try_seconds)
        call = link.watch.Watch(metadata=(*metadata, ("hasleader", "true")))
        try:
            await self._ask(call, link=link)
            async with asyncio.timeout(self._try_seconds):
                response = await call.read()
            while response is not EOF and self._accepts(response, link=link, metadata=metadata):
                yield response
                response = await self._next(call, link=link)
        except TimeoutError:
            raise EndpointFailed(_silence(link)) from None
        except grpc.aio.AioRpcError as error:
            self._judge_end(link.answer(error), metadata=metadata)
        finally:
            call.cancel()

    async def _ask(self, call: Any, *, link: Link) -> None:
        create = self._stubs.messages.WatchCreateRequest(
            start_revision=self._next_revision, **convert.span_of(self._ranges)
        )
        try:
            async with asyncio.timeout(self._try_seconds):
                await call.write(self._stubs.messages.WatchRequest(create_request=create))
        except asyncio.InvalidStateError:
            # The call was over before it began; reading says why.
            await call.read()
            raise EndpointFailed(Answer(link.endpoint, grpc.StatusCode.UNAVAILABLE, "the watch ended")) from None

    async def _next(self, call: Any, *, link: Link) -> Any:
        """The next response or EOF, also when silence has lasted so long that the link was replaced."""
        reading = asyncio.ensure_future(call.read())
        try:
            while not (await asyncio.wait({reading}, timeout=2 * self._try_seconds))[0]:
                if link.retired:
                    return EOF
                await self._probe(link)
        finally:
            reading.cancel()
            reading.add_done_callback(_heard)
        return reading.result()

    async def _probe(self, link: Link) -> None:
        """Does the endpoint still serve? A refusal is an answer too."""
        request = self._stubs.messages.RangeRequest(key=convert.span_of(self._ranges)["key"], count_only=True)
        metadata: Metadata = ()
        try:
            metadata = await self._caller.prepare(link, deadline=time.monotonic() + self._try_seconds)
            await link.kv.Range(request, timeout=self._try_seconds, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            answer = link.answer(error)
            match meaning_of(answer):
                case Meaning.UNCLEAR | Meaning.BUSY:
                    raise EndpointFailed(answer) from None
                case Meaning.STALE_TOKEN:
                    self._caller.discard_token(metadata)
                case _:
                    pass

    def _accepts(self, response: Any, *, link: Link, metadata: Metadata) -> bool:
        """False to connect anew with a new token; raises what ends the watch."""
        if not response.canceled:
            self._established = True
            self._token_is_doubted = False
            self._pause_seconds = _FIRST_PAUSE_SECONDS
            return True
        if response.compact_revision:
            raise WatchCompacted(
                f"etcd has compacted its history up to revision {response.compact_revision}; "
                f"the watch had still to read from {self._next_revision}."
            )
        # Members of 3.4 and 3.5 say "permission denied" of a token that has only expired.
        if any(words in response.cancel_reason for words in _DENIALS):
            return self._doubt_token(link.endpoint, reason=response.cancel_reason, metadata=metadata)
        raise WatchCancelled(f"etcd ended the watch: {link.endpoint}: {response.cancel_reason or 'no reason given'}")

    def _doubt_token(self, endpoint: str, *, reason: str, metadata: Metadata) -> bool:
        if not self._token_is_doubted and self._caller.discard_token(metadata):
            self._token_is_doubted = True
            return False
        raise AccessDenied(
            f"etcd denies the watch: {endpoint}: {reason}",
            hint="The user's role must be allowed to read the cluster's whole prefix.",
        )

    def _judge_end(self, answer: Answer, *, metadata: Metadata) -> None:
        match meaning_of(answer):
            case Meaning.UNCLEAR | Meaning.BUSY:
                raise EndpointFailed(answer) from None
            case Meaning.STALE_TOKEN:
                self._doubt_token(answer.endpoint, reason=answer.text, metadata=metadata)
            case _:
                raise error_from(answer, sent=False) from None


def _heard(reading: asyncio.Future[Any]) -> None:
    """The stream's end, where the endpoint was given up for its silence at that moment, is no error nobody heard of."""
    if not reading.cancelled():
        reading.exception()


def _silence(link: Link) -> Answer:
    return Answer(link.endpoint, grpc.StatusCode.DEADLINE_EXCEEDED, "the watch was not answered in time")
