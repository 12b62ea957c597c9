"""The stand-in of a virtual machine: a real process that writes its disk for as long as its one vCPU runs.

    guest.py DISK HOST

Its monitor is its standard input, one JSON document a line; every command is answered by one line:

    {"do": "run", "token": N, "memory": M}      the vCPU runs, with the memory of another process of it
    {"do": "run"}                               it runs on
    {"do": "stop"}                              it has stopped: nothing is written any more
    {"do": "look"}                              nothing changes

The answer is its memory, one number: how many records it has written since it was switched on.

It locks nothing and asks nobody. The records are those of `etcdlock.demo.guest`, which `etcdlock.demo.checker` judges.
"""

from __future__ import annotations

import json
import os
import select
import sys
from typing import Any

from etcdlock.demo.guest import Writer

PAUSE_SECONDS = 0.02


class Guest:
    """One vCPU, one disk, one number of memory."""

    def __init__(self, disk: str, *, host: str) -> None:
        self._disk = disk
        self._host = host
        self._writer: Writer | None = None
        self._memory = 0
        self._runs = False
        self._monitor = os.fdopen(sys.stdin.fileno(), "rb", buffering=0)

    def live(self) -> None:
        """Until the process is ended: nobody at the monitor is no reason to stop."""
        watched = [self._monitor]
        while True:
            ready, _, _ = select.select(watched, [], [], PAUSE_SECONDS if self._runs else None)
            if ready and not self._listen():
                watched = []
            if self._runs and self._writer:
                self._writer.write_one()
                self._memory += 1

    def _listen(self) -> bool:
        """Whether there is still somebody."""
        line = self._monitor.readline()
        if line:
            self._obey(json.loads(line))
            print(json.dumps({"memory": self._memory}), flush=True)
        return bool(line)

    def _obey(self, command: dict[str, Any]) -> None:
        if command["do"] == "run":
            if self._writer is None or "memory" in command:
                self._writer = Writer(self._disk, token=command["token"], host=self._host)
                self._memory = command.get("memory", 0)
            self._runs = True
        if command["do"] == "stop":
            self._runs = False


if __name__ == "__main__":
    Guest(sys.argv[1], host=sys.argv[2]).live()
