"""Two labs on one machine: the second waits for the first, not for ever, and says for whom."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.libvirt.alone import alone
from tests.libvirt.host import REPOSITORY

A_LAB_THAT_WAITS = """
import sys
from pathlib import Path
from tests.libvirt.alone import alone
with alone(Path(sys.argv[1])):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "run/lock"


def test_a_second_one_is_refused_with_the_first_ones_process_when_that_does_not_end(lock: Path) -> None:
    with (
        alone(lock),
        pytest.raises(AssertionError, match=re.escape(f"{lock} is free: another lab runs on this machine")) as refused,
        alone(lock, within_seconds=0.1),
    ):
        raise RuntimeError("both are inside")
    assert f"that of process {os.getpid()}" in str(refused.value)


def test_the_lock_of_one_that_was_killed_is_free(lock: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", A_LAB_THAT_WAITS, str(lock)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline()
        with pytest.raises(AssertionError, match=f"process {other.pid}"), alone(lock, within_seconds=0.1):
            raise RuntimeError("both are inside")
        other.kill()
        with alone(lock, within_seconds=10):
            assert lock.read_text(encoding="ascii") == str(os.getpid())
