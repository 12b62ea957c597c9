"""What etcdlock's own exit codes say. `etcdlock run` otherwise exits with its command's status.

They lie above what commands commonly use, so that a script can tell them from the guest's own.
"""

from __future__ import annotations

from enum import IntEnum

from etcdlock.errors import (
    AccessDenied,
    CorruptRecord,
    EtcdlockError,
    GuestNotStarted,
    HeldElsewhere,
    InvalidInput,
    OutcomeUnknown,
    Refused,
    SessionLost,
    Unreachable,
)


class Exit(IntEnum):
    """Documented in docs/CLI.md, which a test holds to be true."""

    OK = 0
    FAULT = 1
    """An error that etcdlock did not expect: a bug."""
    USAGE = 2
    """Wrong arguments, settings, domain XML or paths; nothing was attempted."""
    HELD_ELSEWHERE = 100
    """Somebody else holds the domain or one of its disks; from `inquire`: a lock stands in the way."""
    UNREACHABLE = 101
    """No etcd answered; nothing was done."""
    UNKNOWN = 102
    """etcd did not say whether it was done and could not be asked."""
    SESSION_LOST = 103
    """The session could not be proven any more, or its lock was taken meanwhile; the guest was stopped."""
    REFUSED = 104
    """Another definite no: settings that differ from the cluster's, a host id in use, a session that lives."""
    CORRUPT = 105
    """A record in etcd cannot be read; nobody takes it for free."""
    ACCESS_DENIED = 106
    """etcd refuses this certificate, user or role."""
    FINDINGS = 107
    """`doctor` has found a fault; `shadow`, something that would have been refused or stopped."""
    NOT_EXECUTABLE = 126
    """The command exists but cannot be executed."""
    NOT_FOUND = 127
    """There is no such command."""


_BY_ERROR: tuple[tuple[type[EtcdlockError], Exit], ...] = (
    (InvalidInput, Exit.USAGE),
    (HeldElsewhere, Exit.HELD_ELSEWHERE),
    (AccessDenied, Exit.ACCESS_DENIED),
    (Refused, Exit.REFUSED),
    (CorruptRecord, Exit.CORRUPT),
    (OutcomeUnknown, Exit.UNKNOWN),
    (SessionLost, Exit.SESSION_LOST),
    (Unreachable, Exit.UNREACHABLE),
)


def exit_for(error: EtcdlockError, /) -> Exit:
    """The exit code that tells this error from the others."""
    if isinstance(error, GuestNotStarted):
        return Exit.NOT_FOUND if error.missing else Exit.NOT_EXECUTABLE
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), Exit.FAULT)
