"""Every error has an exit code that tells it from the others."""

from __future__ import annotations

from typing import Any

import pytest

from etcdlock import errors
from etcdlock.cli.exits import Exit, exit_for
from etcdlock.errors import EtcdlockError, GuestNotStarted

EXPECTED = {
    "InvalidInput": 2, "InvalidDomainXml": 2, "InvalidSetting": 2, "UnsafeTiming": 2, "TooManyOperations": 2,
    "MalformedMessage": 2, "NotLocked": 104, "NotTheOwner": 104, "SocketInUse": 104,
    "Refused": 104, "Superseded": 104, "ContractMismatch": 104, "DuplicateHost": 104, "SessionAlive": 104,
    "AgentRuns": 104, "NotIdentified": 104, "NotReady": 104, "RightsDiffer": 104,
    "DriverNotLoaded": 104, "DriverClosed": 104, "NotSupported": 104,
    "NotClaimed": 104, "NotPermitted": 104,
    "UnsafeEtcd": 104, "UnsteadyClock": 104, "Rejected": 104, "AccessDenied": 106, "HeldElsewhere": 100,
    "CorruptRecord": 105, "NewerFormat": 105, "Unreachable": 101, "NoAgent": 101, "OutcomeUnknown": 102,
    "NotConfirmedOff": 102,
    "SessionLost": 103, "GuardLost": 103,
    "EtcdlockError": 1, "NoSuchGuest": 1, "WatchCompacted": 1, "WatchCancelled": 1,   # these never leave the programs
}  # fmt: skip
NEEDS: dict[str, dict[str, Any]] = {
    "HeldElsewhere": {"blockers": ()}, "CorruptRecord": {"key": "k"}, "NewerFormat": {"key": "k"}
}  # fmt: skip
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EtcdlockError)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not GuestNotStarted], ids=lambda it: it.__name__)
def test_an_error_gives_its_documented_exit_code(kind: type[EtcdlockError]) -> None:
    assert exit_for(kind("why", **NEEDS.get(kind.__name__, {}))) == EXPECTED[kind.__name__]


def test_a_command_that_cannot_be_started_gives_what_a_shell_would_give() -> None:
    assert exit_for(GuestNotStarted("x", missing=True)) is Exit.NOT_FOUND
    assert exit_for(GuestNotStarted("x", missing=False)) is Exit.NOT_EXECUTABLE
