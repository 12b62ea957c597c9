"""A file system on a loop device, to be frozen: what writes to it sleeps, and nothing wakes it, until it is thawed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.guarding import DEADLINE_SECONDS

_AT_LAST = """read -r _
fsfreeze -u "$1" 2>/dev/null
for _ in $(seq 50); do umount "$1" 2>/dev/null && exit; sleep 0.1; done    # whoever has slept there is just ending
umount "$1"
"""


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, thawed and unmounted whatever happens, also if this process does not live on."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a loop device and a mount: sudo")
    image, point = folder / "image", folder / "disk"
    with image.open("xb") as opened:
        opened.truncate(128 * 2**20)
    point.mkdir()
    done("mkfs.ext4", "-q", "-F", image)
    done("mount", "-o", "loop", image, point)
    at_last = ("sh", "-c", _AT_LAST, "thaw", str(point))
    with subprocess.Popen(at_last, stdin=subprocess.PIPE) as thawing:
        try:
            yield point
        finally:
            thawing.communicate(timeout=DEADLINE_SECONDS)
    assert not point.is_mount()


def thaw(point: Path) -> None:
    """If it is not thawed already."""
    subprocess.run(("fsfreeze", "-u", point), check=False, stderr=subprocess.DEVNULL, timeout=DEADLINE_SECONDS)


def done(*command: str | Path) -> None:
    subprocess.run(command, check=True, timeout=DEADLINE_SECONDS)
