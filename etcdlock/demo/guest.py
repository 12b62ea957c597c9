"""The demo's guest: writes token-stamped records to its disk until it is asked to end.

    python -m etcdlock.demo.guest DISK

It locks nothing and asks nobody: whatever keeps two of it from writing at once lies outside of it. The disk is a file
that must exist. Every record is one line of 160 bytes, appended with O_DSYNC, so that it is on the disk when the write
returns:

    token=<n> host=<name> sequence=<n> before=<ns> done=<ns>, padded to 150 bytes, a blank, their CRC-32, a newline

`sequence` counts from 0 in each process. `before` is CLOCK_BOOTTIME just before this write, `done` just after the one
before it (0 in the first). SIGTERM ends it after a whole record.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import zlib
from types import FrameType
from typing import Final

PAUSE_SECONDS: Final = 0.01


class Writer:
    """Appends the records of one process."""

    def __init__(self, disk: str, *, token: int, host: str) -> None:
        self._disk = os.open(disk, os.O_WRONLY | os.O_APPEND | os.O_DSYNC)
        self._owner = f"token={token} host={host}"
        self._sequence = 0
        self._done = 0
        self._asked_to_end = False

    def ask_to_end(self, _number: int, _frame: FrameType | None) -> None:
        """Signal handler: no further record."""
        self._asked_to_end = True

    def run(self) -> None:
        """Write, pause, and so on."""
        while not self._asked_to_end:
            self.write_one()
            time.sleep(PAUSE_SECONDS)

    def write_one(self) -> None:
        """The next record."""
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        body = f"{self._owner} sequence={self._sequence} before={before} done={self._done}".ljust(150).encode()
        record = b"%s %08x\n" % (body, zlib.crc32(body))
        if os.write(self._disk, record) != len(record):
            raise OSError("the disk took only a part of a record")
        self._done = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._sequence += 1


def main() -> None:
    """Read who we are from the environment that `etcdlock run` gives to its guest."""
    writer = Writer(sys.argv[1], token=int(os.environ["ETCDLOCK_TOKEN"]), host=os.environ["ETCDLOCK_HOST_ID"])
    signal.signal(signal.SIGTERM, writer.ask_to_end)
    writer.run()


if __name__ == "__main__":
    main()
