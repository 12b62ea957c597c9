"""One client of the virtlockd door: its bytes become calls, and each is answered in its turn.

Guaranteed:

- Calls of a connection are done one after the other, as they came; each answer carries its call's serial. While one
  waits for etcd nothing more is read from this connection, and all others are served.
- A peer that sends without reading its answers is not read from either. What is kept of a connection is one unfinished
  message, one read's worth of calls, and answers up to `ANSWERS_KEPT_BYTES` and one more.
- An idle connection has no task and no buffer; thousands cost little more than their descriptors.
- That a guest's own connection has ended is passed on; the end of any other connection means nothing.

Bytes that are not the protocol end the connection with one line in the log.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import cast

from etcdlock.journal import note
from etcdlock.libvirt.caller import Caller
from etcdlock.libvirt.desk import Desk
from etcdlock.libvirt.packet import HangUp, Header, PacketDecoder
from etcdlock.libvirt.procedure import AcquireResource, Register, ReleaseResource, Request, Restrict
from etcdlock.libvirt.remote_error import RemoteError
from etcdlock.libvirt.wire import Call, Refusal, encode_done, encode_error, read_calls
from etcdlock.model import Owner

READ_BYTES = 16 * 1024
"""At the most a few hundred calls: so long can one connection keep the others waiting."""
ANSWERS_KEPT_BYTES = 64 * 1024

_CREDENTIALS = struct.Struct("iII")

Answered = asyncio.Task[RemoteError | None]


class Connection(asyncio.BufferedProtocol):
    """A client of the door.

    `buffer` may be shared by all: it is used only while what came is copied. `among` are those that are open.
    """

    __slots__ = (
        "_among",
        "_buffer",
        "_caller",
        "_coming",
        "_decoder",
        "_desk",
        "_gone",
        "_is_congested",
        "_transport",
        "_uid",
        "_waiting_for",
    )

    def __init__(self, desk: Desk, /, *, uid: int, buffer: bytearray, among: set[Connection]) -> None:
        self._desk = desk
        self._uid = uid
        self._buffer = buffer
        self._among = among
        self._caller = Caller()
        self._decoder = PacketDecoder()
        self._coming: Iterator[Call | Refusal | HangUp] = iter(())
        self._waiting_for: Answered | None = None
        self._is_congested = False
        self._gone: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport

    # --- its life -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take it on, or hang up on a user who may not use it."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=ANSWERS_KEPT_BYTES)
        self._among.add(self)
        pid, uid = _peer(transport.get_extra_info("socket"))
        self._caller = Caller(pid=pid)
        if uid != self._uid:
            self._hang_up(f"it is of user {uid}; only user {self._uid} is served here")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's; why it ended does not matter
        """Pass on that the guest's own connection has ended."""
        self._among.discard(self)
        if self._caller.guest is not None:
            self._desk.departed(self._caller.guest)
        if self._gone is not None:
            self._gone.set_result(None)

    async def quiet(self) -> None:
        """Come back when no call of this connection waits for etcd."""
        while self._waiting_for is not None:
            await asyncio.wait((self._waiting_for,))

    async def leave(self, *, within_seconds: float) -> None:
        """End it because we end, which says nothing of the guest. Answers that are not read in time are lost."""
        if self not in self._among:
            return
        self._caller = Caller()
        self._gone = asyncio.get_running_loop().create_future()
        self._transport.close()
        await asyncio.wait((self._gone,), timeout=within_seconds)
        self._transport.abort()
        await self._gone

    # --- what comes -----------------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's
        """Where to put what comes."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Something has come. Nothing of earlier reads is left, or there would have been no reading."""
        self._coming = read_calls(self._decoder, bytes(memoryview(self._buffer)[:nbytes]))
        self._go_on()

    def pause_writing(self) -> None:
        """The client does not read its answers."""
        self._is_congested = True

    def resume_writing(self) -> None:
        """It has read enough of them."""
        self._is_congested = False
        self._go_on()

    def _go_on(self) -> None:
        with self._or_hang_up():
            if self._do_what_has_come():
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _do_what_has_come(self) -> bool:
        """Whether all of it is done; if not, something must be waited for."""
        while self._waiting_for is None and not self._is_congested:
            match next(self._coming, None):
                case None:
                    return True
                case HangUp(reason):
                    self._hang_up(reason)
                case Refusal(header, error):
                    self._answer(header, error)
                case Call(header, request):
                    self._do(header, request)
        return False

    @contextmanager
    def _or_hang_up(self) -> Iterator[None]:
        """A fault of ours, whatever it is, must not leave a client waiting: libvirt would do so without end."""
        is_done = False
        try:
            yield
            is_done = True
        finally:
            if not is_done:
                self._transport.abort()

    def _hang_up(self, reason: str) -> None:
        note("lock_client_hung_up_on", level=logging.WARNING, pid=self._caller.pid, reason=reason)
        self._transport.close()

    # --- what is done ---------------------------------------------------------------------------------------------

    def _do(self, header: Header, request: Request) -> None:
        denied, owner = self._caller.denied(request), self._caller.owner
        if denied is not None:
            self._answer(header, denied)
        elif isinstance(request, AcquireResource) and owner is not None:
            self._acquire(header, request, owner)
        elif isinstance(request, ReleaseResource) and owner is not None:
            self._answer(header, self._desk.release(owner, request))
        else:
            self._note_who_speaks(request)
            self._answer(header, None)

    def _note_who_speaks(self, request: Request) -> None:
        """What is neither REGISTER nor RESTRICT needs no doing: all lockspaces and resources are there to be locked."""
        if isinstance(request, Register):
            self._caller = self._caller.registered(request)
        elif isinstance(request, Restrict):
            self._caller = replace(self._caller, restricted=True)
            if self._caller.guest is not None:
                self._desk.arrived(self._caller.guest)

    def _acquire(self, header: Header, request: AcquireResource, owner: Owner) -> None:
        self._waiting_for = asyncio.ensure_future(self._desk.acquire(owner, request))
        self._waiting_for.add_done_callback(partial(self._acquired, header))

    def _acquired(self, header: Header, answered: Answered) -> None:
        self._waiting_for = None
        with self._or_hang_up():
            self._answer(header, answered.result())
        self._go_on()

    def _answer(self, header: Header, error: RemoteError | None) -> None:
        if not self._transport.is_closing():
            self._transport.write(encode_done(header) if error is None else encode_error(header, error))


def _peer(connected: socket.socket) -> tuple[int, int]:
    """Pid and user of the process that made the connection, whoever has it now; the kernel vouches for them."""
    found = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(found)
    return pid, uid
