"""The guard process: python -s -P -S etcdlock/guard/__main__.py <socket>

Stops every armed guest at its deadline, whatever state the program that armed it is in, and goes on until nothing of
the guest lives, or it stands. How it is started, `program` says; what it is given then comes over the socket (`wire`).
When the other end of its socket closes, it keeps the last deadlines and ends once no armed guest is left.

It is locked into memory, scheduled in real time and spared by the OOM killer where the host allows that, and quietly
goes without where not. No signal that can be ignored stops it. Once the other end of its socket is closed, SIGUSR2 says
that a successor guards everything: it then ends as soon as what it is stopping is gone. It cannot kill what the kernel
does not let die (a process in frozen I/O) and says so: `stuck`. Which clock: see `instant`.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

if __name__ == "__main__" and not __package__:
    # Started by its path: name the package without running its __init__, so that nothing else of it is loaded.
    _package = ModuleType("etcdlock")
    _package.__path__ = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    sys.modules["etcdlock"] = _package

    class _Inspect(ModuleType):
        """Stands for a module that `dataclasses` imports for classes unlike ours. With all that it imports in turn it
        would be a seventh of our locked memory. Whoever needs anything of it gets it.
        """

        def __getattr__(self, name: str) -> object:
            sys.modules.pop("inspect", None)
            return getattr(__import__("inspect"), name)

    sys.modules["inspect"] = _Inspect("inspect")

import ctypes
import resource
import signal
import socket
import struct
from contextlib import suppress

from etcdlock.guard import wire
from etcdlock.guard.cgroup import Cgroups, hierarchies
from etcdlock.guard.command import Commands
from etcdlock.guard.loop import Guard
from etcdlock.guard.recorder import Recorder
from etcdlock.guard.watchdog import Watchdog

_CAP_IPC_LOCK = 1 << 14
_IGNORED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,     # until there is a guard that can give way
    signal.SIGALRM,
    signal.SIGTSTP,
)


def stand_apart(link: int) -> None:
    """Hold no descriptor but the link: a pipe of the caller's held open here would never end for its reader."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) > 2 and int(entry) != link:
            with suppress(OSError):     # the listing's own
                os.close(int(entry))
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)


def stand_firm() -> None:
    """Ask the host for room, memory, time and life; each may be refused, which changes no other."""
    with suppress(ValueError, OSError):     # a pidfd for each guest, of which there may be more than the soft limit
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    lock_memory()
    try:
        # Not for its children: a command is nothing that others must wait for.
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, -15)
    for score in ("-1000", "-900", "-500"):     # below what it began with takes a right
        with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
            stream.write(score)
            break


def lock_memory() -> None:
    """All pages present and to come; only without a limit, for at a limit an allocation would fail later."""
    current, future = 1, 2
    if may_lock_all():
        ctypes.CDLL(None, use_errno=True).mlockall(current | future)


def may_lock_all() -> bool:
    """Whether no limit applies: by capability, or since it could be lifted."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
        mask = next((line.split()[1] for line in stream if line.startswith("CapEff:")), "0")
    if int(mask, 16) & _CAP_IPC_LOCK:
        return True
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        return False
    return True


def must_live(link: socket.socket) -> set[int]:
    """Whose cgroups are no guest's, whatever they are called: our parent's, and that of whoever we guard for."""
    peer, _, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return {os.getppid(), peer}


def mounted_cgroups() -> dict[str, str]:
    """As `cgroup.hierarchies`; none where the kernel does not tell."""
    with suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        return hierarchies(stream.read())
    return {}


def main(arguments: list[str]) -> None:
    """Guard until the work is done."""
    descriptor = int(arguments[0])
    stand_apart(descriptor)
    stand_firm()
    link = socket.socket(fileno=descriptor)
    link.setblocking(True)      # nothing is to be done before it has come
    packet = link.recv(wire.LONGEST_PACKET_BYTES)
    if not packet:      # whoever wanted a guard is gone
        return
    equipment = wire.unpack_equipment(*wire.unpack(packet)[2:])
    guard = Guard(
        link,
        watchdog=Watchdog(equipment.watchdog, wanted_seconds=equipment.watchdog_seconds, waits=equipment.waits),
        commands=Commands(equipment.command),
        cgroups=Cgroups(never=must_live(link), mounts=mounted_cgroups()),
        recorder=Recorder(equipment.record),
        parent=equipment.parent,
    )
    signal.signal(signal.SIGUSR2, lambda *_: guard.give_way())
    guard.run()


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)     # not waiting for a search that the kernel does not let end
