"""House rules of the whole suite.

A test that lacks a program calls `pytest.skip("needs …: make system-deps")`; all such are listed once at the end. With
--no-skips, as in CI, a skip is a failure. Whatever the tests started must be gone when they end: every process
inherits a mark in its environment, and one that is left over is ended, named, and fails the run.

`make test` runs two lanes beside each other (pytest-xdist): what needs the machine for itself (libvirtd, Docker, hosts
in namespaces, time that really passes) is one of them, everything else the other.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

MARK = f"MARK_OF_TESTS={uuid.uuid4().hex}"
GRACE_SECONDS = 15.0
_PR_SET_CHILD_SUBREAPER = 36
LEFT_OVER = pytest.StashKey[list[str]]()


ONE_LANE = ("cluster", "containers", "deploy", "e2e", "faults", "libvirt", "storage", "systemd", "watchdog")
"""Folders whose tests must not run beside each other."""

LONG = ("model", "simulation", "fuzz")
"""Folders with single tests of minutes: they begin early, so that no lane waits for them at the end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make test ARGS=--no-skips`."""
    parser.addoption("--no-skips", action="store_true", help="a test that is skipped has failed")


def pytest_configure() -> None:
    """Mark this process before it starts any other; and let nothing of the caller's reach the tests."""
    name, _, value = MARK.partition("=")
    os.environ[name] = value
    for variable in [name for name in os.environ if name.startswith("ETCDLOCK_")]:
        del os.environ[variable]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest lanes first."""
    folders = {**dict.fromkeys(ONE_LANE, 0), **dict.fromkeys(LONG, 1)}
    items.sort(key=lambda item: folders.get(Path(item.nodeid).parts[1], 2))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out whole lanes: what needs the machine is one, and otherwise every file."""
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):  # type: ignore[misc]  # it ships no types
        """By folder or file."""

        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", maxsplit=1)[0]
            return "machine" if Path(file).parts[1] in ONE_LANE else file

    return Lanes(config, log)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Adopt no orphans from here on: starting guests in this process makes it adopt theirs, and what nobody reaps in a
    later test's namespaces would keep these from ending.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where nothing may be skipped, a skip is a failure that says what is missing."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, where nothing may be: {report.longrepr}"
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what is left over, and fail for it; after pytest's own clean-up of a run that was cut short."""
    left = _left_over()
    deadline = time.monotonic() + GRACE_SECONDS
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = _left_over()
    named = [*session.config.stash.get(LEFT_OVER, []), *(_named(pid) for pid in left)]
    for pid in left:
        _kill(pid)
    session.config.stash[LEFT_OVER] = named
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_over"] = named
    elif named:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A lane has ended: what it has left over counts for the whole run."""
    left = getattr(node, "workeroutput", {}).get("left_over", [])
    node.config.stash[LEFT_OVER] = [*node.config.stash.get(LEFT_OVER, []), *left]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was left over, and what could not run here and the one command that enables it."""
    left = config.stash.get(LEFT_OVER, [])
    if left:
        terminalreporter.section("left over by the tests, and killed", red=True)
    for line in left:
        terminalreporter.line(line)
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", [])]
    needs = sorted({reason.removeprefix("Skipped: ") for reason in reasons})
    if needs:
        terminalreporter.section("not run here; 'make system-deps' enables it", yellow=True)
    for need in needs:
        terminalreporter.line(f"{sum(need in reason for reason in reasons)} tests: {need}")


def _left_over() -> list[int]:
    """Other processes that carry our mark; those being reaped have no environment any more."""
    return [pid for pid in _processes() if pid != os.getpid() and MARK.encode() in _environment(pid)]


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _named(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        command = "?"
    return f"{pid} {command}"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return
