"""Freezes a file system for as long as it runs: `python -m tests.cluster.frozen FOLDER`.

It says `frozen`, and thaws when its input ends: also if whoever started it is killed, nobody is left behind who waits
for that file system and cannot be killed.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Final, Self, cast

_REPOSITORY: Final = Path(__file__).parents[2]
_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878


class Frozen:
    """A file system that stands still until this is closed."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.frozen", str(folder)],
            env={**os.environ, "PYTHONPATH": str(_REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert cast("IO[bytes]", self._process.stdout).readline() == b"frozen\n", f"{folder} could not be frozen"

    def close(self) -> None:
        """It has gone on when this returns."""
        cast("IO[bytes]", self._process.stdin).close()
        self._process.wait(timeout=30)
        cast("IO[bytes]", self._process.stdout).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main(folder: str) -> None:
    """Freeze, wait, thaw."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.ioctl(descriptor, _FIFREEZE, 0)
    try:
        print("frozen", flush=True)
        sys.stdin.read()
    finally:
        fcntl.ioctl(descriptor, _FITHAW, 0)


if __name__ == "__main__":
    main(sys.argv[1])
