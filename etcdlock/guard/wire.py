"""What is said over the guard's socket: one line of text a packet, fields divided by blanks.

To the guard, each answered by `done <serial>` or `refused <serial> <reason>`:

    arm <serial> <pid>:<start> <session>        with the guest's pidfd as ancillary data
    prove <serial> <instant> <session>          instant: seconds of `etcdlock.guard.instant`
    disarm <serial> <pid>:<start>
    close <serial>

From the guard, unasked: `ready` once it keeps watch; `striking`, `stuck` and `gone`, each followed by `<pid>:<start>`.
Both ends come from one installation, so there are no versions here.
"""

from __future__ import annotations

from etcdlock.guard.table import Name

LONGEST_PACKET_BYTES = 4096
READY, DONE, REFUSED = "ready", "done", "refused"
ARM, PROVE, DISARM, CLOSE = "arm", "prove", "disarm", "close"
STRIKING, STUCK, GONE = "striking", "stuck", "gone"


def pack(*fields: object) -> bytes:
    """One packet. Only a fourth field may hold blanks."""
    return " ".join(map(str, fields)).encode()


def unpack(packet: bytes) -> list[str]:
    """Its fields."""
    return packet.decode().split(" ", 3)


def unpack_name(text: str) -> Name:
    """A guest's leader."""
    pid, _, start = text.partition(":")
    return Name(int(pid), int(start))
