"""A third hand that grabs for a lock all the while that something else is done with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.libvirt.libvirt_host import LOCK_SOCKET, LibvirtHost
from tests.libvirt.waiting import wait_until

GIVE_BACK = "give-back"
KEEP = "keep"


@dataclass
class Contended:
    """How that went, once it has ended."""

    tries: int = 0
    won: int = 0


@contextmanager
def contending(
    host: LibvirtHost, /, *, name: str, lockspace: str = "", then: str = GIVE_BACK
) -> Iterator[Contended]:
    """Inside, a program on `host` tries without a pause to get a lock from the host's lock server, as libvirt would.

    What it gets it gives back at once, or keeps until the end.
    """
    program = host.start_python("tests.libvirt.contender", LOCK_SOCKET, lockspace, name, then)
    wait_until(lambda: bool(program.output()) or not program.is_running, what="the contender has begun")
    contended = Contended()
    yield contended
    assert program.terminate() == 0, program.end_of_log()
    told = json.loads(program.output().splitlines()[-1])
    contended.tries, contended.won = told["tries"], told["won"]
