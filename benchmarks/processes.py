"""What the kernel says of other processes: who they are, what they take, whether they serve."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_SECONDS = 30.0
LOOK_EVERY_SECONDS = 0.005


def until(holds: Callable[[], bool], /, *, what: str) -> float:
    """The seconds until it holds. Raises TimeoutError."""
    begun = time.perf_counter()
    while not holds():
        if time.perf_counter() - begun > PATIENCE_SECONDS:
            raise TimeoutError(f"not within {PATIENCE_SECONDS:g} s: {what}")
        time.sleep(LOOK_EVERY_SECONDS)
    return time.perf_counter() - begun


def accepts(path: str, /) -> bool:
    """Whether somebody listens on this Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def children(pid: int, /) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def has_ended(pid: int, /) -> bool:
    """Whether it is gone, or only not reaped yet."""
    try:
        return _stat(pid)[0] == "Z"
    except OSError:
        return True


def end(pid: int, /) -> None:
    """SIGKILL."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def resident_bytes(pid: int, /) -> int:
    return _memory(pid, "VmRSS")


def most_resident_bytes(pid: int, /) -> int:
    """Since it was started."""
    return _memory(pid, "VmHWM")


def cpu_seconds(pid: int, /) -> float:
    """User and system time until now."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    found = next(line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(found.split()[1])


def _stat(pid: int) -> list[str]:
    """From the third field on; the second, in parentheses, may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
