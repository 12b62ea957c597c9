"""The guard is small, and stays so with a thousand guests: all of its memory is locked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from etcdlock.adapters.guardlink import GuardLink
from etcdlock.agent.resuming import Departed
from etcdlock.guard.program import command_line, environment_of
from tests.faults.guarding import CLOCK, DEADLINE_SECONDS, limits, run

GUESTS = 1000
MOST_OVER_BARE_BYTES, MOST_PER_GUEST_BYTES = 4_000_000, 1_400
BARE = """
import ctypes
ctypes.CDLL(None).mlockall(3)
with open("/proc/self/status") as stream: print(stream.read())
"""
"""An interpreter that does nothing but lock its memory."""


def resident_bytes(status: str) -> int:
    """From /proc/<pid>/status."""
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text("ascii", "replace")


def bare_bytes() -> int:
    *interpreter, _, _ = command_line(0)
    bare = subprocess.run(
        [*interpreter, "-c", BARE], env=environment_of(os.environ), capture_output=True, text=True, check=True
    )
    return resident_bytes(bare.stdout)


def test_a_guard_takes_little_more_than_a_bare_interpreter_and_next_to_nothing_for_each_guest() -> None:
    async def scenario(pid: int, pidfd: int) -> tuple[int, int]:
        link = await GuardLink.start(limits=limits(10 * DEADLINE_SECONDS))
        sizes = []
        try:
            await link.prove("session", at=CLOCK.now())
            for guests in (range(1), range(1, GUESTS)):
                for number in guests:  # to a guard, one process is as many as it is called by names
                    await link.arm(Departed(pid, number, pidfd), session="session")
                await CLOCK.sleep(1.2)  # it has looked for their processes
                sizes.append(resident_bytes(status_of(link.pid)))
        finally:
            link.kill()
        return sizes[0], sizes[1]

    with subprocess.Popen(["sleep", "300"], start_new_session=True) as guest:
        pidfd = os.pidfd_open(guest.pid)
        try:
            one, many = run(scenario(guest.pid, pidfd))
        finally:
            guest.kill()
            os.close(pidfd)
    assert one - bare_bytes() < MOST_OVER_BARE_BYTES
    assert (many - one) / GUESTS < MOST_PER_GUEST_BYTES
