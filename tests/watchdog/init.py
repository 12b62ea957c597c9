"""The first process of the small VM: loads a watchdog's driver, has a guard watch a guest, and does what must go wrong.

Which driver and which scenario, the kernel's command line says. What happens is told on the console, a line each:
`@<seconds since boot> <words>`. Ends only with the VM.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
WATCHDOG_SECONDS = 2
BUDGET_SECONDS = 10.0
PROVE_EVERY_SECONDS = 0.3
PROVEN_SECONDS = 3 * WATCHDOG_SECONDS
ALIVE_EVERY_SECONDS = 0.2


def read(path: str) -> str:
    return Path(path).read_text(encoding="ascii")


def say(*words: object) -> None:
    os.write(1, f"\n@{time.monotonic():.3f} {' '.join(map(str, words))}\n".encode())


def prepare() -> dict[str, str]:
    """Mount what the kernel has to show, load the driver; the options of the kernel's command line."""
    for kind, where in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")):
        if LIBC.mount(kind.encode(), where.encode(), kind.encode(), 0, None) != 0:
            raise OSError(ctypes.get_errno(), f"mount {where}")
    options = dict(word.split("=", 1) for word in read("/proc/cmdline").split() if "=" in word)
    sys.path.insert(0, read("/package"))
    known = dict(line.split(" ", 1) for line in read("/drivers").splitlines())
    for name in ("watchdog", options["driver"]):
        if name in known:
            load(known[name])
    return options


def load(path: str) -> None:
    finit_module, compressed = 313, 4
    descriptor = os.open(path, os.O_RDONLY)
    if LIBC.syscall(finit_module, descriptor, b"", 0 if path.endswith(".ko") else compressed) != 0:
        raise OSError(ctypes.get_errno(), path)
    os.close(descriptor)


class Agent:
    """What an agent does for its guard, over a real socket to a real guard; unlike process 1 it can be stopped."""

    def __init__(self) -> None:
        from etcdlock.guard import program, wire
        from etcdlock.guard.rules import Limits

        self.wire = wire
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link = ours
        self.guard = os.fork()
        if self.guard == 0:
            os.set_inheritable(theirs.fileno(), True)
            command = program.command_line(theirs.fileno())
            os.execve(command[0], command, program.environment_of(os.environ))  # noqa: S606 - no shell is wanted
        theirs.close()
        equipment = wire.Equipment("/dev/watchdog", WATCHDOG_SECONDS)
        ours.send(wire.pack(wire.EQUIP, 0, *wire.pack_equipment(equipment)))
        _, _, seconds, standing = wire.unpack(ours.recv(1000))
        say("watchdog", standing.strip(), seconds)
        limits = Limits(4.0, act_seconds=1.0, kill_seconds=2.0, budget_seconds=BUDGET_SECONDS, feed_every_seconds=0.5)
        self.ask(wire.LIMITS, *wire.pack_limits(limits))

    def ask(self, verb: str, *fields: object, pidfd: int | None = None) -> None:
        packet = self.wire.pack(verb, "1", *fields)
        if pidfd is None:
            self.link.send(packet)
        else:
            socket.send_fds(self.link, [packet], [pidfd])
        while (answer := self.link.recv(1000).split())[:1] not in ([b"done"], [b"refused"]):
            say("event", answer[0].decode())
        if answer[0] != b"done":
            raise RuntimeError(f"{verb}: {answer}")

    def prove(self) -> None:
        from etcdlock.guard import instant

        self.ask(self.wire.PROVE, instant.read().steady_seconds, "s")

    def arm(self, pid: int) -> None:
        from etcdlock.escalation import KILLED
        from etcdlock.guard import table

        process = table.look_up(pid)
        if process is None:
            raise RuntimeError(f"no process {pid}")
        self.ask(self.wire.ARM, process.name, self.wire.pack_charge("s", KILLED), pidfd=os.pidfd_open(pid))

    def prove_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.prove()
            time.sleep(PROVE_EVERY_SECONDS)
        self.prove()


def guest() -> int:
    """A process that does nothing until it is killed."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        while True:
            signal.pause()
    return pid


def immortal() -> int:
    """One that no signal ends: a thread of the kernel's own."""
    numbers = sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return next(pid for pid in numbers if read(f"/proc/{pid}/comm").startswith("ksoftirqd"))


def end_in_order(agent: Agent) -> None:
    """Close the guard, and be still there long after its watchdog would have reset this host."""
    agent.ask(agent.wire.CLOSE)
    os.waitpid(agent.guard, 0)
    say("closed")
    time.sleep(2 * WATCHDOG_SECONDS + 0.5)
    say("outlived-an-orderly-end")


def agent_and_guard_hang(agent: Agent) -> None:
    end_in_order(agent)
    agent = Agent()
    agent.prove()
    agent.arm(guest())
    say("proving")
    agent.prove_for(PROVEN_SECONDS)
    say("hanging")      # nothing more is heard of this host
    os.kill(agent.guard, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)


def the_guest_does_not_die(agent: Agent) -> None:
    agent.prove()
    agent.arm(immortal())
    agent.prove()
    say("silent")
    while True:
        say("event", agent.link.recv(1000).split()[0].decode())


def main() -> None:
    options = prepare()
    scenario = globals()[options["scenario"]]
    if os.fork() == 0:      # process 1 could not be stopped
        try:
            scenario(Agent())
        except BaseException:  # noqa: BLE001 - to be told outside
            say("failed", traceback.format_exc().replace("\n", " | "))
    while True:
        say("alive")
        time.sleep(ALIVE_EVERY_SECONDS)


if __name__ == "__main__":
    main()
