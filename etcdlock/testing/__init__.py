"""Fakes that ship with etcdlock, for its own tests and for those of programs that build on it.

They pass the same contract suite as the real adapters. Nothing in the package itself imports them.
"""

from etcdlock.testing.clock import FakeClock
from etcdlock.testing.database import FakeEtcd, steady
from etcdlock.testing.fake_watchdog import FakeWatchdog
from etcdlock.testing.faults import (
    Answered,
    Applied,
    Entry,
    Fault,
    LeaseEnd,
    LeaseEnded,
    Link,
    Outcome,
    Sent,
)
from etcdlock.testing.guests import FakeGuard, FakeGuest, FakeGuests, FakeProcesses
from etcdlock.testing.mvcc import Change
from etcdlock.testing.power import FakePowerSwitch
from etcdlock.testing.ruled_guard import GuardLine, RuledGuard
from etcdlock.testing.store import FakeStore
from etcdlock.testing.virtual import (
    VirtualDeadlock,
    VirtualLoop,
    VirtualOnly,
    VirtualSpin,
    VirtualTimeError,
    VirtualTimeLimit,
    run_virtual,
)

__all__ = [
    "Answered",
    "Applied",
    "Change",
    "Entry",
    "FakeClock",
    "FakeEtcd",
    "FakeGuard",
    "FakeGuest",
    "FakeGuests",
    "FakePowerSwitch",
    "FakeProcesses",
    "FakeStore",
    "FakeWatchdog",
    "Fault",
    "GuardLine",
    "LeaseEnd",
    "LeaseEnded",
    "Link",
    "Outcome",
    "RuledGuard",
    "Sent",
    "VirtualDeadlock",
    "VirtualLoop",
    "VirtualOnly",
    "VirtualSpin",
    "VirtualTimeError",
    "VirtualTimeLimit",
    "run_virtual",
    "steady",
]
