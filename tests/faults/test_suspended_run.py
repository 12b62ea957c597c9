"""Ctrl-Z at the terminal of `etcdlock run`: guest and program stop and go on together, or the guest is dead."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.timing import Timing
from tests.cli.hosts import SHORT_TIMING, Cluster
from tests.cli.site import Site
from tests.faults.guarding import CLOCK, SLACK_SECONDS, comes_true

TIMING = Timing(**SHORT_TIMING)  # type: ignore[arg-type]
SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, "-m", "etcdlock", *sys.argv[1:]])
while True:
    _, status = os.waitpid(job, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        print("ended", os.waitstatus_to_exitcode(status), flush=True)
        break
    os.tcsetpgrp(0, os.getpgrp())
    print("stopped", flush=True)
    input()
    os.tcsetpgrp(0, job)
    os.killpg(job, signal.SIGCONT)
"""
"""What a shell does about one job: it takes the terminal when that stops, and lets it go on at the next line."""
CTRL_Z = b"\x1a"


class Terminal:
    """With a shell that runs one `etcdlock`."""

    def __init__(self, cluster: Cluster, settings: Mapping[str, str], *options: str) -> None:
        arguments = ["run", "--disk", "/san/x", *options, "--", "sh", "-c", "while read line; do echo got $line; done"]
        self.shell, self._terminal = pty.fork()
        if self.shell == 0:
            command = [sys.executable, "-c", SHELL, *arguments]
            os.execve(sys.executable, command, cluster.environment("a", settings))  # noqa: S606 - no shell is wanted
        self._seen = b""

    def types(self, what: bytes) -> None:
        os.write(self._terminal, what)

    def shows(self, words: bytes) -> None:
        """Come back when it does, and forget all before."""
        assert self.says(words, within_seconds=15.0), self._seen
        self._seen = self._seen.partition(words)[2]

    def says(self, words: bytes, *, within_seconds: float) -> bool:
        """Whether it does, and forget nothing."""
        deadline = CLOCK.now() + within_seconds
        while words not in self._seen:
            ready, _, _ = select.select([self._terminal], [], [], max(deadline - CLOCK.now(), 0.0))
            if not ready:
                return False
            self._seen += os.read(self._terminal, 1024)
        return True

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.shell, signal.SIGKILL)
        os.waitpid(self.shell, 0)
        os.close(self._terminal)


@contextmanager
def terminal_of(cluster: Cluster, settings: Mapping[str, str], *options: str) -> Iterator[Terminal]:
    terminal = Terminal(cluster, settings, *options)
    try:
        terminal.types(b"one\n")
        terminal.shows(b"got one")
        yield terminal
    finally:
        terminal.close()


@pytest.fixture
def terminal(cluster: Cluster) -> Iterator[Terminal]:
    with terminal_of(cluster, {}) as terminal:
        yield terminal


def test_what_is_suspended_at_a_terminal_goes_on_with_its_guest_and_is_dead_if_that_comes_too_late(
    terminal: Terminal, cluster: Cluster
) -> None:
    terminal.types(CTRL_Z)
    terminal.shows(b"is suspended")
    terminal.shows(b"stopped")
    terminal.types(b"fg\n")
    terminal.types(b"two\n")
    terminal.shows(b"got two")
    terminal.types(CTRL_Z)
    terminal.shows(b"stopped")
    suspended = CLOCK.now()
    assert comes_true(lambda: not guest_lives(cluster), within_seconds=TIMING.stop_after_seconds + SLACK_SECONDS)
    assert CLOCK.now() - suspended < TIMING.stop_after_seconds + SLACK_SECONDS
    terminal.types(b"fg\n")
    terminal.shows(b"was stopped")
    terminal.shows(b"ended 103")


def test_what_is_suspended_under_an_agent_keeps_its_locks_for_as_long_as_that_takes(
    cluster: Cluster, tmp_path: Path
) -> None:
    site = Site(cluster, tmp_path)
    site.start_agent()
    with terminal_of(cluster, site.settings) as terminal:
        terminal.types(CTRL_Z)
        terminal.shows(b"it keeps its locks")
        terminal.shows(b"stopped")
        late = TIMING.stop_after_seconds + SLACK_SECONDS
        assert not comes_true(lambda: not guest_lives(cluster), within_seconds=late)
        terminal.types(b"fg\n")
        terminal.types(b"two\n")
        terminal.shows(b"got two")
        terminal.types(b"\x04")
        terminal.shows(b"ended 0")
    site.end()


def test_what_an_agents_guard_has_frozen_meanwhile_goes_on_only_when_the_agent_has_its_lock_again(
    cluster: Cluster, tmp_path: Path, etcd: EmbeddedEtcd
) -> None:
    site = Site(cluster, tmp_path)
    agent = site.start_agent()
    with terminal_of(cluster, site.settings, "--on-session-lost", "freeze") as terminal, ExitStack() as at_the_end:
        terminal.types(CTRL_Z)
        terminal.shows(b"stopped")
        etcd.pause()
        at_the_end.callback(etcd.resume)
        agent.says("guard_has_frozen")
        terminal.types(b"fg\n")
        terminal.types(b"two\n")
        assert not terminal.says(b"got", within_seconds=1.0)
        etcd.resume()
        terminal.shows(b"got two")
        terminal.types(b"\x04")
        terminal.shows(b"ended 0")
    site.end()


def guest_lives(cluster: Cluster) -> bool:
    """Whether the guest lives."""
    mark, entries = f"ETCDLOCK_CLUSTER={cluster.name}".encode(), Path("/proc").iterdir()
    for entry in entries:
        with suppress(OSError):
            is_ours = entry.name.isdecimal() and mark in (entry / "environ").read_bytes()
            if is_ours and (entry / "cmdline").read_bytes().startswith(b"sh\0-c\0while read"):
                return True
    return False
