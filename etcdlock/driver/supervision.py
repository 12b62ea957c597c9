"""Starts a guest behind a gate, between fork and exec, whoever does the starting: the supervisor.

`command` is put before the guest's own command line: by `subprocess`, a service manager, a container runtime. The
supervisor (`etcdlock.guard.gate`) connects to a socket of ours, and waits; so its pid is known, and it can be locked
for and armed, before anything of the guest has run. Let through, it becomes the guest, with the same pid. If this
program ends before that, or refuses, it ends without having run anything.

Guaranteed: one process is let through, once. Not guaranteed: anything about what connects under this user's name and is
no supervisor; the socket is in a folder that only this user may enter.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import etcdlock.guard
from etcdlock.errors import GuestNotStarted, NoSuchGuest

_GATE = Path(etcdlock.guard.__file__).with_name("gate.py")
_CREDENTIALS = struct.Struct("3i")
_TAKEN_WITHIN_SECONDS = 10.0


class Supervision:
    """For one guest."""

    def __init__(self) -> None:
        self._folder = self._path = ""
        self._listening: socket.socket | None = None
        self._link: socket.socket | None = None
        self._turn = threading.Lock()
        try:
            self._folder = tempfile.mkdtemp(prefix="etcdlock-")
            self._path = f"{self._folder}/gate"
            self._listening = socket.socket(socket.AF_UNIX)
            self._listening.bind(self._path)
            self._listening.listen(1)
        except OSError as error:
            self.close()
            raise GuestNotStarted(f"no socket for the guest's supervisor: {error}", missing=False) from error

    @property
    def command(self) -> tuple[str, ...]:
        """The words to put before the guest's command line."""
        return (sys.executable, "-I", "-S", os.fspath(_GATE), "--ask", self._path, "--")

    def guest_pid(self, *, within_seconds: float) -> int:
        """The supervisor's pid, once it is there: the guest's. Raises `NoSuchGuest` if it does not come."""
        with self._turn:
            if self._link is None:
                self._link = self._connected(within_seconds)
            credentials = self._link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid: int = _CREDENTIALS.unpack(credentials)[0]
        return pid

    def _connected(self, within_seconds: float, /) -> socket.socket:
        if self._listening is None:
            raise NoSuchGuest("this guest's supervisor was refused, or let through before")
        self._listening.settimeout(within_seconds)
        try:
            link, _ = self._listening.accept()
        except TimeoutError:
            raise NoSuchGuest(
                f"no supervisor has come within {within_seconds:g} s",
                hint="start the guest with supervisor_command() before its own command line",
            ) from None
        except OSError as error:
            raise NoSuchGuest(f"this guest's supervisor was refused: {error}") from None
        self._stop_listening()
        return link

    def let_through(self, *, token: int | None, descriptors: tuple[int, ...] = ()) -> None:
        """It becomes the guest. Raises `NoSuchGuest` if it has ended while it waited."""
        with self._turn:
            link, self._link = self._link, None
            if link is None:
                raise NoSuchGuest("there is no supervisor to let through")
            line = b"\n" if token is None else b"%d\n" % token
            with link:
                try:
                    socket.send_fds(link, [line], descriptors)
                    if descriptors:  # it hangs up once it has them: from then on they are found with it
                        link.settimeout(_TAKEN_WITHIN_SECONDS)
                        link.recv(1)
                except OSError as error:
                    raise NoSuchGuest(f"the guest has ended before it was let run: {error}") from error
        self.close()

    def close(self) -> None:
        """Refuse whoever was not let through, and end the waiting for whoever has not come."""
        if (listening := self._listening) is not None:
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
        with self._turn:
            if self._link is not None:
                with suppress(OSError):  # it is gone; a fork of this process may have the link, too
                    self._link.shutdown(socket.SHUT_RDWR)
                self._link.close()
                self._link = None
            self._stop_listening()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
