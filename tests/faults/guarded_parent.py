"""A program that starts a guest under a guard and then never speaks to the guard again: `test_guard` does away with it.

    guarded_parent.py <budget seconds> [command]...

Prints one line: the guard's pid, the guest's pid and start time (0 0 without a command).
"""

from __future__ import annotations

import asyncio
import sys

from etcdlock.adapters.clock import BootClock
from etcdlock.adapters.guardlink import GuardLink
from etcdlock.adapters.processes import LocalGuests


async def main(budget_seconds: float, command: list[str]) -> None:
    link = await GuardLink.start(budget_seconds=budget_seconds, kill_seconds=5.0)
    if not command:
        print(link.pid, 0, 0, flush=True)
        await asyncio.Event().wait()
    guests = LocalGuests()
    guest = await guests.start(command, environment={})
    await link.prove("session", at=BootClock().now())
    await link.arm(guest, session="session")
    guest.open_gate(token=7)
    print(link.pid, guest.pid, guest.pid_start, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), sys.argv[2:]))
