"""The guest of `etcdlock reserve` without a command: it reads its standard input to the end, and does nothing else.

    python -I -S held_open.py

Its locks end with it, so they are held for as long as whoever has the other end keeps that open. In the background of
a terminal nothing may be read; there it waits for a signal.
"""

from __future__ import annotations

import errno
import os
import signal

_AT_ONCE_BYTES = 65536


def read_to_the_end() -> None:
    """Whatever comes is of no interest."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)
    try:
        while os.read(0, _AT_ONCE_BYTES):
            pass
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        while os.isatty(0):
            signal.pause()


if __name__ == "__main__":
    read_to_the_end()
