"""Every error of etcdlock, one tree.

The class says what the caller now knows and may do; the text says it to a person.

    EtcdlockError
    ├── InvalidInput            nothing was attempted: mend the input
    │   ├── InvalidDomainXml
    │   ├── InvalidSetting
    │   ├── UnsafeTiming
    │   ├── MalformedMessage
    │   └── TooManyOperations
    ├── Refused                 a definite no: nothing was changed
    │   ├── HeldElsewhere       somebody else has it; carries the blockers
    │   ├── Superseded          a lock that was ours is not ours any more
    │   ├── NotLocked           what was to be given back is locked by nobody
    │   ├── NotTheOwner         … or by somebody else on this host
    │   ├── NotClaimed              a migration's destination has not taken the lock: it is still ours
    │   ├── NotReady                this host's agent is starting or stopping
    │   ├── NotPermitted            the caller may not ask that of this host's agent
    │   ├── NotIdentified       it cannot be told which disk that is, so that every host would name it alike
    │   ├── SocketInUse         another program listens on the socket that was to be ours
    │   ├── ContractMismatch    this host's settings differ from the cluster's
    │   ├── DuplicateHost       the host id is in use by another machine
    │   ├── AgentRuns           this host has an agent already
    │   ├── DriverNotLoaded     a lock manager's driver is not there, too old, or lacks what is needed: start no domain
    │   ├── DriverClosed        a driver that was closed, has failed, or was loaded by another process before a fork
    │   ├── NotSupported        the driver does not declare what is asked of it
    │   ├── SessionAlive        break was asked for a session that still lives
    │   ├── AccessDenied        etcd knows us and says no, or does not know us
    │   ├── RightsDiffer        etcd has users or roles of these names with other rights
    │   ├── UnsteadyClock       this host's clocks differ in rate by more than the contract allows
    │   ├── UnsafeEtcd          an etcd version that loses committed data
    │   └── Rejected            etcd found the request itself malformed or too large
    ├── CorruptRecord           a record in etcd cannot be read
    │   └── NewerFormat         … because a later version of etcdlock wrote it
    ├── Unreachable             no etcd answered and nothing was sent: nothing was done
    │   └── NoAgent             … because this host's agent was asked, and none listens
    ├── OutcomeUnknown          it was sent and may have been done, now or some seconds from now
    │   └── NotConfirmedOff     … to a host's power: it may be off, and nobody has confirmed it
    ├── SessionLost             the session can no longer be proven: nothing may run under it
    │   └── GuardLost           … because there is no guard that would stop it
    ├── NoSuchGuest             there is no such process any more: it holds nothing
    ├── GuestNotStarted         the command could not be executed
    ├── WatchCompacted          the watch missed history: read anew
    └── WatchCancelled          etcd ended the watch

Foreign exceptions stop at the adapters; no other module lets one through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etcdlock.model import Blocker


def reason_of(error: Exception, /) -> str:
    """What a foreign error says, without its number and the path, which the message around it names."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class EtcdlockError(Exception):
    """Root of the tree. `hint` says what to do next, where there is something to do."""

    hint: str = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        if hint:
            self.hint = hint


class InvalidInput(EtcdlockError):
    """The input is wrong; nothing was attempted."""


class InvalidDomainXml(InvalidInput):
    """A libvirt domain XML that cannot be read, or that names something twice or not at all."""


class InvalidSetting(InvalidInput):
    """A setting, in a file, the environment or a flag."""


class UnsafeTiming(InvalidInput):
    """A timing contract under which a guest could outlive the proof of its end."""


class MalformedMessage(InvalidInput):
    """Bytes that break a wire protocol, or values that cannot be said in it."""


class TooManyOperations(InvalidInput):
    """A request that does not fit into one etcd transaction; it is never split."""


class Refused(EtcdlockError):
    """A definite no; nothing was changed."""


class HeldElsewhere(Refused):
    """The domain or one of its resources is held by another.

    `blockers` names every one of them, never empty; `revision` is etcd's when they were seen.
    """

    def __init__(self, message: str, *, blockers: tuple[Blocker, ...], revision: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.blockers = blockers
        self.revision = revision


class Superseded(Refused):
    """A lock that was ours has been claimed, taken over or removed; its guest must not run."""


class NotLocked(Refused):
    """Nobody on this host has locked what was to be given back."""


class NotTheOwner(Refused):
    """Another guest of this host has locked what was to be given back."""


class NotClaimed(Refused):
    """The destination of a migration has not taken the domain's lock: it is still this host's."""


class NotIdentified(Refused):
    """What would be locked has no name that is sure to be the same on every host."""


class NotReady(Refused):
    """This host's agent is starting or stopping: it does nothing now, and soon it or another does."""


class NotPermitted(Refused):
    """The caller is not one of those from whom this host's agent takes that."""


class SocketInUse(Refused):
    """Another program listens on the socket, or something that is no socket is in its place; it was left alone."""


class ContractMismatch(Refused):
    """This host's timing contract or cluster rules differ from those the cluster was made with."""


class DuplicateHost(Refused):
    """Another machine lives in the cluster under this host id."""


class AgentRuns(Refused):
    """Another agent of this host runs."""


class DriverNotLoaded(Refused):
    """A driver of the lock manager cannot be used: no domain may be started."""


class DriverClosed(Refused):
    """The driver cannot be asked any more, or not by this process."""


class NotSupported(Refused):
    """The driver has not declared the capability that this needs."""


class SessionAlive(Refused):
    """The session that was to be declared dead still has its key."""


class AccessDenied(Refused):
    """Wrong certificate, wrong or revoked user, or a role without the right."""


class RightsDiffer(Refused):
    """etcd's users and roles are not as they would be made, so they are left as they are."""


class UnsteadyClock(Refused):
    """This host's clocks differ in rate by more than the timing contract allows: nothing new is acquired by them."""


class UnsafeEtcd(Refused):
    """A member of etcd runs a version that is known to lose committed data."""


class Rejected(Refused):
    """etcd refused the form of the request (too many operations, too large, a key twice)."""


class CorruptRecord(EtcdlockError):
    """A record in etcd that cannot be read; nobody may assume it is free.

    `key` is its full key.
    """

    def __init__(self, message: str, *, key: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.key = key


class NewerFormat(CorruptRecord):
    """The record was written by a later version of etcdlock."""


class Unreachable(EtcdlockError):
    """No etcd answered and nothing was sent, or a read failed: nothing was done."""


class NoAgent(Unreachable):
    """No agent of this host listens: nothing was done."""


class OutcomeUnknown(EtcdlockError):
    """It was sent; it may have been done, or may yet be done seconds from now."""


class NotConfirmedOff(OutcomeUnknown):
    """A fence agent has failed, or does not say that the host is off: it proves nothing."""


class SessionLost(EtcdlockError):
    """The session can no longer be proven; nothing may run under it."""


class GuardLost(SessionLost):
    """The guard is dead or does not answer; another must take its place, or what it guarded must stop."""


class NoSuchGuest(EtcdlockError):
    """The process is gone, or never was."""


class GuestNotStarted(EtcdlockError):
    """The guest's command could not be executed. `missing` if there is no such command."""

    def __init__(self, message: str, *, missing: bool, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.missing = missing


class WatchCompacted(EtcdlockError):
    """The history that the watch still had to read is gone; read the state anew."""


class WatchCancelled(EtcdlockError):
    """etcd ended the watch, for a reason other than compaction."""
