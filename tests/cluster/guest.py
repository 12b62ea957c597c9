"""A guest: writes records to its disk, each stamped with its token and the time, until it is stopped.

    python guest.py DISK HOST [incoming]

It locks nothing and asks nobody: whatever keeps two of it from writing at once lies outside of it. The disk is a file
that must exist, opened with O_DIRECT and O_SYNC, so a write that returns is on the disk and no cache holds a later one
back. Every record is a block of 512 bytes, appended; it begins with a record as the demo's guest writes it
(`etcdlock.demo.guest`), and zeros follow.

One word a line on its input, answered by a line: `stand`, as a virtual machine whose vCPUs stop (`stands`); `go TOKEN`,
they run on, with that token (`goes`). With `incoming` it stands from the beginning. Each answer comes once it is so.
Standard library only, and quick to start.
"""

from __future__ import annotations

import mmap
import os
import select
import sys
import time
import zlib
from typing import Final

BLOCK_BYTES: Final = 512
PAUSE_SECONDS: Final = 0.03
RECORD_BYTES: Final = 160


class Writer:
    """The records of one process."""

    def __init__(self, disk: str, *, host: str, token: int) -> None:
        self._disk = os.open(disk, os.O_WRONLY | os.O_APPEND | os.O_DIRECT | os.O_SYNC)
        self._block = mmap.mmap(-1, mmap.PAGESIZE)  # of its own pages, as O_DIRECT wants it
        self._view = memoryview(self._block)[:BLOCK_BYTES]
        self._host = host
        self._sequence = 0
        self._done = 0
        self.token = token

    def write_one(self) -> None:
        """It is on the disk on return."""
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        words = f"token={self.token} host={self._host} sequence={self._sequence} before={before} done={self._done}"
        body = words.ljust(150).encode()
        self._view[:RECORD_BYTES] = b"%s %08x\n" % (body, zlib.crc32(body))
        if os.write(self._disk, self._view) != BLOCK_BYTES:
            raise OSError("the disk took only a part of a block")
        self._done = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._sequence += 1

    def go(self, token: int) -> None:
        """Records count anew with a new token."""
        if token != self.token:
            self.token, self._sequence = token, 0


def main(disk: str, host: str, *rest: str) -> None:
    """Write and listen."""
    runs = rest != ("incoming",)
    writer = Writer(disk, host=host, token=int(os.environ.get("ETCDLOCK_TOKEN", "0")))
    poll, listens = select.poll(), True
    poll.register(0, select.POLLIN)
    _say(f"ready {os.getpid()}")
    while True:
        if runs:
            writer.write_one()
        if not listens:
            time.sleep(PAUSE_SECONDS)
        elif poll.poll(PAUSE_SECONDS * 1000 if runs else None):
            words = sys.stdin.readline().split()
            if words[:1] == ["stand"]:
                runs = False
                _say("stands")
            elif words[:1] == ["go"]:
                writer.go(int(words[1]))
                runs = True
                _say("goes")
            elif runs:
                listens = False     # whoever spoke to us has gone, and a virtual machine runs on then
            else:
                return


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
