"""The narrow doors to the world: the store, the clock, guests and the guard.

Programs get them handed in; the real ones live in `adapters`, the fakes in `testing`. Under the contract suite
both behave alike.

Times are seconds as `float`. `Clock.now` is the only clock that a decision may read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from etcdlock.escalation import KILLED, Charge
from etcdlock.model import DomainId, Resource


class Relation(StrEnum):
    """How a compare relates the stored number to the given one."""

    EQUAL = "="
    LESS = "<"
    GREATER = ">"


class Target(StrEnum):
    """Which number of a key a compare looks at. Both are 0 for a key that does not exist."""

    CREATE_REVISION = "create"
    MOD_REVISION = "mod"


@dataclass(frozen=True, slots=True)
class KeyRange:
    """One key, or with `prefix` every key that starts with it (end it with a slash)."""

    key: str
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Compare:
    """One condition. Over a prefix it must hold for every key there; an empty range counts as one absent key."""

    where: KeyRange
    target: Target
    relation: Relation
    number: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key; with `lease` it lives as long as that lease."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key or a prefix; what does not exist is left out in silence."""

    where: KeyRange


@dataclass(frozen=True, slots=True)
class Get:
    """Read a key or a prefix."""

    where: KeyRange


Op = Put | Delete | Get


@dataclass(frozen=True, slots=True)
class Txn:
    """If all of `compare` hold then `success`, else `failure`, as one atomic step. No key may be written twice."""

    compare: tuple[Compare, ...]
    success: tuple[Op, ...]
    failure: tuple[Op, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A stored key as it was at the revision of the answer."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class TxnResult:
    """`replies` has one entry for each operation of the branch that ran: what a Get found, in key order; else ()."""

    succeeded: bool
    revision: int
    replies: tuple[tuple[KeyValue, ...], ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a read found, in key order, and the store's revision at that moment."""

    revision: int
    found: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as granted; the store may grant a longer TTL than was asked for."""

    id: int
    ttl_seconds: int


@dataclass(frozen=True, slots=True)
class Event:
    """One change seen by a watch; `value` is None when the key was deleted."""

    key: str
    value: bytes | None
    revision: int


class Store(Protocol):
    """etcd, as far as etcdlock needs it.

    Every call is bounded in time. `txn` raises `Unreachable` only if nothing was sent, `OutcomeUnknown` if it may have
    been applied or may yet be, and a subclass of `Refused` if it was definitely not. All others raise `Unreachable`
    when no answer came: they may be repeated.
    """

    async def txn(self, txn: Txn, /) -> TxnResult:
        """Send it once; it is never repeated by the store."""
        ...

    async def read(self, where: KeyRange, /) -> Snapshot:
        """A linearizable read as far as the store keeps that promise; no decision may rest on it alone."""
        ...

    async def grant(self, *, ttl_seconds: int) -> Lease:
        """A new lease."""
        ...

    async def keep_alive(self, lease: int, /) -> int:
        """Renew; the TTL in seconds that the store now says, 0 if it knows no such lease."""
        ...

    async def revoke(self, lease: int, /) -> None:
        """Drop the lease and its keys; a lease unknown to the store is a success."""
        ...

    def watch(self, ranges: Sequence[KeyRange], *, after_revision: int) -> AsyncIterator[Event]:
        """Changes later than `after_revision`, in revision order, across reconnections, until closed.

        Raises `WatchCompacted` or `WatchCancelled`. That no event came never means that nothing happened.
        """
        ...

    async def close(self) -> None:
        """Let go of connections; leases and keys stay as they are."""
        ...


class Clock(Protocol):
    """This host's clock: runs on while the host is suspended, is never set, and has no meaning on another host."""

    def now(self) -> float:
        """Seconds since some instant that stays the same until the host reboots."""
        ...

    async def sleep(self, seconds: float, /) -> None:
        """Come back when at least `seconds` have passed on this clock."""
        ...

    def rate_error(self) -> float:
        """By how much the rates of this host's clocks differ of late: 0.001 is one part in a thousand, 0 if unknown."""
        ...

    def wall(self) -> datetime:
        """Time of day with its zone, for people to read; no decision reads it."""
        ...


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a guest's first process ended: an exit code, or the signal that killed it."""

    code: int
    signal: int = 0


class Guest(Protocol):
    """A guest that exists but runs only once its gate is open.

    Its processes are the one that was started, that process's group, and everything they leave behind.
    """

    @property
    def pid(self) -> int: ...

    @property
    def pid_start(self) -> int:
        """Start time in clock ticks since boot, field 22 of /proc/<pid>/stat: pid and start time name one process."""
        ...

    @property
    def pidfd(self) -> int:
        """File descriptor that names the process for good; -1 where there is none (fakes)."""
        ...

    def open_gate(self, *, token: int) -> None:
        """Let it run. Called once, and only while the session is proven."""
        ...

    def signal(self, number: int, /) -> None:
        """Pass a signal on to its process group; without effect once it is gone."""
        ...

    def kill(self) -> None:
        """SIGKILL to every process of it. It is gone only when `gone` returns."""
        ...

    def freeze(self) -> None:
        """SIGSTOP to every process of it. It stands only when `stands` says so."""
        ...

    def stands(self) -> bool:
        """Whether all of it is stopped, and nothing of it has run since this was last asked."""
        ...

    def go_on(self) -> None:
        """SIGCONT to every process of it."""
        ...

    async def gone(self) -> ExitStatus:
        """Wait until the last of its processes is gone."""
        ...


GuestName = tuple[int, int]
"""pid and start time."""


class Guests(Protocol):
    """Starts guests on this host."""

    async def start(self, command: Sequence[str], /, *, environment: Mapping[str, str]) -> Guest:
        """Start it behind a closed gate. Raises `GuestNotStarted`, having left nothing behind."""
        ...


class Processes(Protocol):
    """Guests that others start: they are found by pid, run already or soon, and are never waited for as children."""

    def attach(self, pid: int, /) -> Guest:
        """The process that has this pid now. Raises `NoSuchGuest`. Its gate is open, or its starter's business."""
        ...

    async def left_behind(self, ended: frozenset[GuestName], /) -> Mapping[GuestName, Guest]:
        """What lives on of guests whose first process has ended, unseen by us; also where that cannot be told soon."""
        ...

    async def awaits_migration(self, guest: Guest, domain: DomainId, /) -> bool:
        """Whether it was started to take the domain in from another host; a guest restored from a file was not."""
        ...

    async def has_open(self, guest: Guest, resource: Resource, /) -> bool:
        """Whether it has what the resource names open; True where that cannot be told, or not soon."""
        ...


class Power(StrEnum):
    """What a switch says."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class PowerSwitch(Protocol):
    """Cuts a host off from its power, or from its storage, for good: a fence agent with its parameters.

    `label` names it for people, and shows no secret. Every call is bounded in time.
    """

    @property
    def label(self) -> str: ...

    async def off(self) -> None:
        """Switch it off. Raises `NotConfirmedOff` if that failed, or may have."""
        ...

    async def state(self) -> tuple[Power, str]:
        """How it stands now, and where that is not known why."""
        ...


class Guard(Protocol):
    """Stops guests at their deadline even if everything else of etcdlock hangs or dies.

    Every call returns once the guard has taken it in. It raises `GuardLost` if there is no guard any more, and `arm`
    raises `SessionLost` for a session that is not proven at that moment.

    A guest that a guard has frozen may run again only once each guard has heard `arm` for it, whose caller must know
    that its lock is still its own; then each may be told `go_on`.
    """

    @property
    def frozen(self) -> frozenset[GuestName]:
        """The guests that stand for want of a proof, or may stand for it."""
        ...

    async def arm(self, guest: Guest, /, *, session: str, charge: Charge = KILLED) -> None:
        """From now on the guest is stopped when `session` can no longer be proven, as its charge says."""
        ...

    async def go_on(self, guest: Guest, /) -> None:
        """Let an armed guest run that was frozen. Raises `SessionLost` if its time is up again."""
        ...

    async def prove(self, session: str, /, *, at: float) -> None:
        """The session was proven by a heartbeat sent at this instant of `Clock.now`."""
        ...

    async def disarm(self, guest: Guest, /) -> None:
        """The guest is gone and its locks are known to be released."""
        ...

    async def close(self) -> None:
        """Nothing is armed any more: end it."""
        ...
