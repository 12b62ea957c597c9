"""A program that runs a guest under a guard: the tests of the guard do away with it in many ways.

    guarded_parent.py <budget seconds> [--shut] [command]...

Prints the pid of each guard that it starts, and the guest's pid and start time as `<pid>:<start>`, a line each. It
tells the guard of one proof; each line on its standard input makes it tell of that same one again. With `--shut` the
first such line opens the guest's gate instead.
"""

from __future__ import annotations

import asyncio
import os
import sys

from etcdlock.adapters.clock import BootClock
from etcdlock.adapters.guardlink import GuardLink
from etcdlock.adapters.processes import LocalGuests
from etcdlock.agent.kept_guard import KeptGuard
from etcdlock.guard.rules import Limits
from etcdlock.guard.wire import Equipment


async def main(budget_seconds: float, command: list[str]) -> None:
    is_shut = command[:1] == ["--shut"]
    guests = LocalGuests()

    limits = Limits(budget_seconds, act_seconds=2.5, kill_seconds=5.0, budget_seconds=budget_seconds + 5.0)

    async def start() -> GuardLink:
        link = await GuardLink.start(limits=lambda _: limits, equipment=Equipment(parent=os.getpid()))
        guests.spare(link.pid)
        print(link.pid, flush=True)
        return link

    guard = KeptGuard(await start(), start=start)
    if command:
        guest = await guests.start(command[is_shut:], environment={})
        proven_at = BootClock().now()
        await guard.prove("session", at=proven_at)
        await guard.arm(guest, session="session")
        if not is_shut:
            guest.open_gate(token=7)
        print(f"{guest.pid}:{guest.pid_start}", flush=True)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(guard.keep())
        while os.read(await readable(0), 100):
            if is_shut:
                guest.open_gate(token=7)
                is_shut = False
            else:
                tasks.create_task(guard.prove("session", at=proven_at))


async def readable(descriptor: int) -> int:
    ready = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ready.set)
    await ready.wait()
    asyncio.get_running_loop().remove_reader(descriptor)
    return descriptor


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), sys.argv[2:]))
