"""What systemd is told of this program, by its protocol of `NOTIFY_SOCKET`.

Guaranteed: telling never fails and never waits longer than `LONGEST_WAIT_SECONDS`; without systemd it does nothing.
Not guaranteed: that systemd has heard it. Signs of life are told again and again; if READY were lost, systemd would
give up waiting and start the program anew.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import NoReturn

from etcdlock.journal import note

LONGEST_WAIT_SECONDS = 1.0
LOOK_EVERY_SECONDS = 1.0


class Systemd:
    """The service manager that has started us, if one has."""

    def __init__(self, environment: Mapping[str, str] = os.environ, /) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        asked_of = environment.get("WATCHDOG_PID", str(os.getpid()))
        self.wants_signs_of_life = "WATCHDOG_USEC" in environment and asked_of == str(os.getpid())

    def ready(self, status: str, /) -> None:
        """What was to be started serves."""
        self._tell("READY=1", f"STATUS={status}")

    def stopping(self) -> None:
        """The end has begun."""
        self._tell("STOPPING=1", "STATUS=stopping")

    async def keep_informed(
        self, rounds: Callable[[], int], status: Callable[[], str], /, *, overdue_seconds: float
    ) -> NoReturn:
        """Give a sign of life whenever `rounds` has grown; if it has not for so long, systemd is to start us anew."""
        if self.wants_signs_of_life:
            self._tell(f"WATCHDOG_USEC={round(overdue_seconds * 1_000_000)}", "WATCHDOG=1")
        seen = -1
        while True:
            if seen != (seen := rounds()):
                life = ("WATCHDOG=1",) if self.wants_signs_of_life else ()
                self._tell(*life, f"STATUS={status()}")
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
                link.settimeout(LONGEST_WAIT_SECONDS)
                link.sendto("\n".join(lines).encode(), _unabridged(self._address))
        except OSError as error:
            note("systemd_not_told", level=logging.WARNING, error=error)


def _unabridged(address: str) -> str:
    """An abstract socket's name begins with a null byte, which is written `@`."""
    return f"\0{address[1:]}" if address.startswith("@") else address
