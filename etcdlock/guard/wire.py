"""What is said over the guard's socket: one packet at a time, fields divided by blanks.

To the guard, each answered by `done <serial>` or `refused <serial> <reason>`:

    equip <serial> <timeout> <parent> <words>                         before all else; answered by `ready`
    limits <serial> <stop after> <numbers>                            seconds, as in `rules.Limits`; next
    arm <serial> <pid>:<start> <session> <action> [<environment>]     with the guest's pidfd as ancillary data
    hold <serial> <pid>:<start> <session> <action> [<environment>]    the same for a guest that must not run
    go-on <serial> <pid>:<start>                                      armed anew, it may run on
    prove <serial> <instant> <session>                                instant: seconds of `etcdlock.guard.instant`
    watch <serial>                                                    open the watchdog, if that has waited, once it may
    disarm <serial> <pid>:<start>
    close <serial>

An environment is `<name>=<value>`, each ended by a null byte. The words of `equip` are the watchdog's device, which is
asked for the timeout, `waits` where that is not to be opened yet, the file for the guard's record, and the command for
guests that are to be stopped by one, divided by null bytes and empty where there is none. Its parent is the pid of the
program that starts this guard and guests as its own children, or 0.

From the guard, unasked: `ready` once it keeps watch, with its own `<pid>:<start>`, its pidfd as ancillary data, and
what became of the watchdog: its timeout, its standing and the reason; `watching <timeout>` where it has the watchdog
later, and `absent 0 - <reason>` where there turns out to be none; `striking`, `stuck`, `freezing`, `frozen`,
`commanded` and `gone`, each followed by `<pid>:<start>`. Both ends come from one installation, so there are no versions
here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from etcdlock.escalation import KILLED, Action, Charge
from etcdlock.guard.rules import Limits
from etcdlock.guard.table import Name

LONGEST_PACKET_BYTES = 64 * 1024
READY, DONE, REFUSED = "ready", "done", "refused"
EQUIP, LIMITS, PROVE, WATCH, CLOSE = "equip", "limits", "prove", "watch", "close"
ARM, HOLD, GO_ON, DISARM = "arm", "hold", "go-on", "disarm"
STRIKING, STUCK, GONE, WATCHING, ABSENT = "striking", "stuck", "gone", "watching", "absent"
FREEZING, FROZEN, COMMANDED = "freezing", "frozen", "commanded"


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a guard is given at its start: a watchdog's device and the timeout to ask it for, the command for guests
    that are to be stopped by one, and the file for its record; empty where there is none. `parent` as in `equip`. The
    watchdog `waits` until the guard is told to watch.
    """

    watchdog: str = ""
    watchdog_seconds: int = 0
    command: tuple[str, ...] = ()
    parent: int = 0
    record: str = ""
    waits: bool = False


def pack(*fields: object) -> bytes:
    """One packet. Only a fourth field may hold blanks."""
    return " ".join(map(str, fields)).encode(errors="surrogateescape")


def unpack(packet: bytes) -> list[str]:
    """Its fields."""
    return packet.decode(errors="surrogateescape").split(" ", 3)


def unpack_name(text: str) -> Name:
    """A guest's leader."""
    pid, _, start = text.partition(":")
    return Name(int(pid), int(start))


def pack_equipment(equipment: Equipment) -> tuple[int, str]:
    """The third and fourth field of `equip`."""
    words = "\0".join((equipment.watchdog, "waits" * equipment.waits, equipment.record, *equipment.command))
    return equipment.watchdog_seconds, f"{equipment.parent} {words}"


def unpack_equipment(seconds: str, rest: str) -> Equipment:
    """As `pack_equipment` has packed it."""
    parent, words = rest.split(" ", 1)
    watchdog, waits, record, *command = words.split("\0")
    return Equipment(watchdog, int(seconds), tuple(command), int(parent), record, bool(waits))


def pack_charge(session: str, charge: Charge) -> str:
    """The fourth field of `arm` and `hold`."""
    environment = "".join(f"{name}={value}\0" for name, value in charge.environment)
    return f"{session} {charge.action.value} {environment}"


def unpack_charge(text: str) -> tuple[str, Charge]:
    """Session and charge: of most guests the same, so that they take no room for each."""
    session, action, environment = text.split(" ", 2)
    pairs: Sequence[tuple[str, str, str]] = [entry.partition("=") for entry in environment.split("\0") if entry]
    charge = Charge(Action(action), tuple((name, value) for name, _, value in pairs))
    return sys.intern(session), KILLED if charge == KILLED else charge


def pack_limits(limits: Limits) -> tuple[str, str]:
    """The third and fourth field of `limits`."""
    first, *numbers = astuple(limits)
    return repr(first), " ".join(map(repr, numbers))


def unpack_limits(first: str, rest: str) -> Limits:
    """As `pack_limits` has packed them."""
    return Limits(*map(float, (first, *rest.split(" "))))
