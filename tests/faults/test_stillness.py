"""What counts as standing: every thread, seen twice."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from etcdlock.guard import table
from etcdlock.guard.stillness import Stillness
from etcdlock.guard.table import Process
from tests.faults.guarding import comes_true

EXIT_THREAD = {"x86_64": 60, "aarch64": 93}
LEADERLESS = f"""
import ctypes, threading
def work():
    number = 0
    while True: number += 1
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall({EXIT_THREAD.get(platform.machine(), 60)}, 0)
"""
"""A process whose first thread has ended and whose other one works on."""


@contextmanager
def process(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], Process]]:
    with subprocess.Popen(command) as started:
        found = table.look_up(started.pid)
        assert found is not None
        try:
            yield started, found
        finally:
            started.kill()


def test_a_process_stands_once_two_looks_agree_and_not_after_it_has_run() -> None:
    with process("sleep", "60") as (started, found):
        stillness = Stillness()
        assert not stillness.look([found])
        assert not stillness.look([found]), "it sleeps, it does not stand"
        started.send_signal(signal.SIGSTOP)
        assert comes_true(lambda: table.look_up(started.pid).stopped)  # type: ignore[union-attr]
        assert [stillness.look([found]) for _ in range(3)] == [False, True, True]
        started.send_signal(signal.SIGCONT)
        started.send_signal(signal.SIGSTOP)
        assert comes_true(lambda: table.look_up(started.pid).stopped)  # type: ignore[union-attr]
        assert not stillness.look([found]), "it has run meanwhile"


def test_a_thread_that_works_on_behind_a_first_thread_that_has_ended_does_not_stand() -> None:
    if platform.machine() not in EXIT_THREAD:
        pytest.fail("add this processor's number for exit(2) to EXIT_THREAD")
    with process(sys.executable, "-c", LEADERLESS) as (started, found):
        assert comes_true(lambda: state(started.pid) == "Z")
        stillness = Stillness()
        assert not any(stillness.look([found]) for _ in range(3))
        started.send_signal(signal.SIGSTOP)
        assert comes_true(lambda: stillness.look([found]))


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]


def test_who_has_ended_stands() -> None:
    with process("sleep", "60") as (started, found):
        started.kill()
        started.wait()
        assert Stillness().look([found])
