"""Reads the start of disk images, and says what cannot be read instead of raising it.

Nothing is written and no access time is kept from changing. May take as long as the storage does: `agent.bounded`
bounds it.
"""

from __future__ import annotations

import os
import stat

from etcdlock.diskfacts import ImageStart
from etcdlock.errors import reason_of

LARGEST_START = 64 * 1024


class Images:
    """Of this host, in the mount namespace of whoever asks. Safe to call from any thread."""

    def __call__(self, path: str, /) -> ImageStart:
        """The start of the file or block device at this absolute path."""
        try:
            folder = os.path.realpath(os.path.dirname(path))  # noqa: PTH120 - any bytes, and longer than a path object likes
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            return ImageStart(path=path, error=reason_of(error))
        try:
            return self._read(path, folder, descriptor)
        except OSError as error:
            return ImageStart(path=path, error=reason_of(error))
        finally:
            os.close(descriptor)

    def _read(self, path: str, folder: str, descriptor: int, /) -> ImageStart:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            return ImageStart(path=path, error="it is neither a file nor a block device")
        # What this host remembers of a shared disk may be older than what another has written there.
        os.posix_fadvise(descriptor, 0, LARGEST_START, os.POSIX_FADV_DONTNEED)
        content = b""
        while len(content) < LARGEST_START:
            more = os.pread(descriptor, LARGEST_START - len(content), len(content))
            if not more:
                break
            content += more
        return ImageStart(path=path, folder=folder, content=content)
