"""One connection: let in by who the peer is, held to bounds of number, size and time.

Guaranteed: a client that says nothing, says it slowly, or does not read its answer, is cut off when its time is up,
unless the answer is one that need not be read (`request.state.need_not_be_read`): then no more than fits is written.
Those who may only look cannot use up the connections of those who may act.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from etcdlock.api.answers import answer_to
from etcdlock.api.bounds import Bounds
from etcdlock.api.peer import Peer, Rights, Rules, peer_of
from etcdlock.errors import EtcdlockError, InvalidInput, NotPermitted, Unreachable


class Connection(H11Protocol):
    """`among` holds all that are open, and what each may do."""

    def __init__(
        self, *arguments: Any, rules: Rules, bounds: Bounds, among: dict[Connection, Rights], **named: Any
    ) -> None:
        super().__init__(*arguments, **named)
        self._rules = rules
        self._bounds = bounds
        self._among = among
        self._is_refused = False
        self._idle: asyncio.TimerHandle | None = None
        self._deaf: asyncio.TimerHandle | None = None

    # The protocol, as asyncio and uvicorn call it.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer = peer_of(transport.get_extra_info("socket"))
        rights = self._rules.rights_of(peer)
        self._among[self] = rights
        self.app_state = {**self.app_state, "rights": rights, "bounds": self._bounds, "pid": peer.pid}
        refusal = self._refusal(peer, rights)
        if refusal is not None:
            self._refuse(*refusal)
        else:
            self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._among.pop(self, None)
        self._stop_waiting()
        self._stop_sending()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        super().data_received(data)
        if self._is_answering:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # which may begin with a request that was sent ahead
        if not self._is_answering:
            self._wait_for_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_sending()
        if not self._need_not_be_read:
            self._deaf = self._cut_off_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_sending()

    def shutdown(self) -> None:
        """The server closes; an answer without an end, as that of `/v1/events`, ends here."""
        if self._need_not_be_read:
            self.transport.abort()  # else it would wait for who does not
        elif self._is_answering and self.cycle.response_started:
            self.transport.close()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        if self._is_answering:
            self.transport.close()
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, InvalidInput(msg))

    # Its bounds.

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _need_not_be_read(self) -> bool:
        return self._is_answering and bool(self.scope["state"].get("need_not_be_read"))

    def _refusal(self, peer: Peer, rights: Rights, /) -> tuple[HTTPStatus, EtcdlockError] | None:
        if rights is Rights.NOTHING:
            error = NotPermitted(
                f"user {peer.uid} may not speak to the agent", hint="root may, and members of api_group may look"
            )
            return HTTPStatus.FORBIDDEN, error
        most = self._bounds.most_acting if rights is Rights.EVERYTHING else self._bounds.most_reading
        if sum(other is rights for other in self._among.values()) > most:
            return HTTPStatus.SERVICE_UNAVAILABLE, Unreachable("too many connections", hint="close some, try again")
        return None

    def _refuse(self, status: HTTPStatus, error: EtcdlockError, /) -> None:
        """Answered before anything is read, and not by the application."""
        self._is_refused = True
        body = json.dumps(answer_to(error)[1]).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()
        self._wait_for_request()

    def _wait_for_request(self) -> None:
        self._stop_waiting()
        self._idle = self._cut_off_later()

    def _cut_off_later(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self._bounds.idle_seconds, self.transport.abort)

    def _stop_sending(self) -> None:
        if self._deaf is not None:
            self._deaf.cancel()
            self._deaf = None

    def _stop_waiting(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

