"""Who is at the other end of a Unix socket, and what that one may do.

Guaranteed: it is the kernel that says who; a client can say nothing about it. What counts is who the process was when
it connected.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from enum import StrEnum

ROOT = 0
_CREDENTIALS = struct.Struct("3i")
_SO_PEERGROUPS = 59
"""Linux 4.13; Python has no name for it."""
_MOST_GROUP_BYTES = 1024
"""As much as Python reads; of a process in more than 256 groups only the first of its own is known."""


class Rights(StrEnum):
    """What a peer may do."""

    NOTHING = "nothing"
    READ = "read"
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end."""

    pid: int
    uid: int
    groups: frozenset[int]


@dataclass(frozen=True, slots=True)
class Rules:
    """Root and the agent's own user may do everything, members of `group` may look and ask, all others nothing."""

    uid: int
    group: int | None = None

    def rights_of(self, peer: Peer, /) -> Rights:
        """By these rules."""
        if peer.uid in (ROOT, self.uid):
            return Rights.EVERYTHING
        return Rights.READ if self.group is not None and self.group in peer.groups else Rights.NOTHING


def peer_of(connected: socket.socket, /) -> Peer:
    """Whoever has connected."""
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return Peer(pid, uid, frozenset({gid, *_groups(connected)}))


def _groups(connected: socket.socket, /) -> tuple[int, ...]:
    try:
        raw = connected.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUP_BYTES)
    except OSError:
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)
