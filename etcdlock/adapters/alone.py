"""At most one agent on a host: a lock on a file, which the kernel lets go of when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from etcdlock.errors import AgentRuns, InvalidSetting


@contextmanager
def only_agent(folder: str, /, *, called: str = "agent") -> Iterator[int]:
    """Be the only one for as long as the block lasts; the lock's descriptor.

    Raises `AgentRuns`, or `InvalidSetting` for a useless folder.
    """
    path = Path(folder) / "agent.lock"
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidSetting(f"run_folder: {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise AgentRuns(
                f"another {called} of this host runs already, as process {pid or 'unknown'} ({path})",
                hint="a host has one; end that one first",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)
