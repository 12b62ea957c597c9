"""One lab at a time on a machine: two would share its processors, and one's deadlines would be missed for the other."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.libvirt.waiting import wait_until

LOCK = Path("/run/lock/etcdlock-lab")
ANOTHER_LABS_SECONDS = 900.0
"""Longer than all tests that need a lab take together."""


@contextmanager
def alone(lock: Path = LOCK, /, *, within_seconds: float = ANOTHER_LABS_SECONDS) -> Iterator[None]:
    """Inside, nobody else on this machine is; fails with the process that is, if that does not end in time.

    The kernel gives the lock back with the process that has it, however that ends.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+", encoding="ascii") as file:
        wait_until(lambda: _is_ours(file), what=f"{lock} is free: {_holder(lock)}", within_seconds=within_seconds)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _is_ours(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(lock: Path) -> str:
    return f"another lab runs on this machine, that of process {lock.read_text(encoding='ascii') or '(unknown)'}"
