"""Ports on loopback for private etcds: which are free, and whose they are.

A free port may be taken by another process before etcd has it, so whether etcd got it is looked up afterwards.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Final

from etcdlock.errors import Unreachable

_LOWEST: Final = 10_000
_TRIES: Final = 1_000
_LISTENS: Final = "0A"  # in /proc/net/tcp


@dataclass(frozen=True, slots=True)
class Ports:
    """Where one member listens on loopback."""

    client: int
    peer: int
    metrics: int


def free_ports(cluster_size: int, /) -> tuple[Ports, ...]:
    """Free a moment ago; somebody may still be quicker."""
    with ExitStack() as stack:
        candidates = _candidates()
        numbers = [_bind_first(candidates, stack=stack) for _ in range(3 * cluster_size)]
    return tuple(Ports(*numbers[3 * member : 3 * member + 3]) for member in range(cluster_size))


def listens(pid: int, /, *, port: int) -> bool:
    """Whether it is this very process that accepts connections there."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[3] == _LISTENS and row[1].endswith(f":{port:04X}")}
    try:
        return any(str(entry.readlink()) in sockets for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it has ended, or has closed a file in this moment: look again
        return False


def _candidates() -> Iterator[int]:
    """Those from which clients are never served, in random order.

    A client that tries the port of an etcd which is down could otherwise be given that very port as its own: it would
    be connected to itself, and etcd could not come back.
    """
    highest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    if highest - _LOWEST < _TRIES:
        return repeat(0, _TRIES)  # this machine keeps none: let the kernel choose
    return iter(random.SystemRandom().sample(range(_LOWEST, highest), k=_TRIES))


def _bind_first(candidates: Iterator[int], *, stack: ExitStack) -> int:
    for number in candidates:
        bound = stack.enter_context(socket.socket())
        try:
            bound.bind(("127.0.0.1", number))
        except OSError:
            continue
        return int(bound.getsockname()[1])
    raise Unreachable("There is no free port on 127.0.0.1.")
