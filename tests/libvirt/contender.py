"""Tries to get one lock of a host's lock server, without a pause, until SIGTERM: the third hand in a migration.

Run on a host as `python -m tests.libvirt.contender SOCKET LOCKSPACE NAME give-back|keep`. Speaks for a domain
`contender` whose process is this one. It gives the lock back at once whenever it gets it, or keeps it. It prints
`contending` after its first try, and at its end one line of JSON: `tries`, and how often it `won`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from itertools import count
from types import FrameType
from uuid import uuid4

from etcdlock.libvirt.packet import Packet, PacketDecoder
from etcdlock.libvirt.procedure import AcquireFlags, AcquireResource, Register, ReleaseResource, Request
from etcdlock.libvirt.remote_error import Code, RemoteError
from etcdlock.libvirt.wire import encode_call, read_answer


class LockClient:
    """One connection to a lock server, as libvirt would have it."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._decoder = PacketDecoder()
        self._serials = count(1)
        self.must(Register(uuid4(), "contender", id=1, pid=os.getpid()))

    def ask(self, request: Request, /) -> RemoteError | None:
        """Why it was not done; None if it was."""
        self._socket.sendall(encode_call(request, serial=next(self._serials)))
        while not (found := self._decoder.feed(self._received())):
            pass
        (packet,) = found
        if not isinstance(packet, Packet):
            raise ConnectionError(packet.reason)
        return read_answer(packet).error

    def must(self, request: Request, /) -> None:
        """Raises PermissionError if it was not done."""
        if (error := self.ask(request)) is not None:
            raise PermissionError(error.message)

    def gets(self, request: AcquireResource, /) -> bool:
        """Whether it got the lock; False if another holds it. Raises PermissionError for any other refusal."""
        error = self.ask(request)
        if error is not None and error.code != Code.RESOURCE_BUSY:
            raise PermissionError(error.message)
        return error is None

    def _received(self) -> bytes:
        received = self._socket.recv(65_536)
        if not received:
            raise ConnectionError("the lock server hung up")
        return received


class Ending:
    """Whether SIGTERM has come."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def wait(self) -> None:
        while not self.asked:
            signal.sigtimedwait([], 0.1)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


def main(path: str, lockspace: str, name: str, then: str) -> None:
    ending, client = Ending(), LockClient(path)
    acquire = AcquireResource(lockspace, name, AcquireFlags.AUTOCREATE if lockspace else 0)
    won = 0
    for tries in count(1):
        if client.gets(acquire):
            won += 1
            if then == "keep":
                ending.wait()
            client.must(ReleaseResource(lockspace, name))  # virtlockd kills who leaves with a lock
        if tries == 1:
            print("contending", flush=True)
        if ending.asked:
            break
    print(json.dumps({"tries": tries, "won": won}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
