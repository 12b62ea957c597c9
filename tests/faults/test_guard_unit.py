"""A guard in a unit of its own: systemd starts it for whoever connects to its socket, and it is no child of theirs."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcdlock.adapters.guardlink import GuardLink
from etcdlock.adapters.host_processes import HostProcesses
from etcdlock.errors import GuardLost
from etcdlock.guard import table
from tests.faults.guarding import (
    BUDGET_SECONDS,
    CLOCK,
    SLACK_SECONDS,
    WITH_PACKAGE,
    comes_true,
    ends,
    limits,
    lives,
    run,
)

ENTRY = "from etcdlock.guard.program import become_guard; become_guard()"


@pytest.fixture(params=["systemd", "--listen"])
def unit(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The socket of a unit: systemd's own tool does what systemd does for `Accept=yes`, or ours does the same."""
    path = tmp_path / "guard.sock"
    entry = [sys.executable, "-c", ENTRY]
    if request.param == "systemd":
        if shutil.which("systemd-socket-activate") is None:
            pytest.skip("needs systemd-socket-activate: make system-deps")
        tool = ("systemd-socket-activate", "--accept", "--seqpacket", "-E", "PYTHONPATH", "-E", "MARK_OF_TESTS")
        command = [*tool, "-l", str(path), *entry]
    else:
        command = [*entry, "--listen", str(path)]
    with subprocess.Popen(command, env=WITH_PACKAGE) as activator:
        assert comes_true(path.exists)
        yield str(path)
        activator.terminate()


def test_a_guest_dies_at_its_deadline_by_a_guard_that_is_no_child_of_ours(unit: str) -> None:
    with subprocess.Popen(["sleep", "300"]) as guest:

        async def scenario() -> None:
            link = await GuardLink.start(limits=limits(BUDGET_SECONDS), unit=unit)
            guard = table.look_up(link.pid)
            assert guard is not None
            assert (guard.parent == os.getpid(), link.is_child) == (False, False)
            await link.prove("s", at=CLOCK.now())
            await link.arm(HostProcesses().attach(guest.pid), session="s")
            await link.close()

        begun = CLOCK.now()
        run(scenario())
        assert guest.wait(BUDGET_SECONDS + SLACK_SECONDS) == -signal.SIGKILL
        assert CLOCK.now() - begun > BUDGET_SECONDS / 2


def test_what_a_guard_that_is_nobodys_child_is_told_to_guard_takes_no_strangers_along(unit: str) -> None:
    """Whoever adopts a host's orphans, and so a guest's, has other children, too, which are none of the guest's."""
    with subprocess.Popen(["sleep", "300"]) as guest, subprocess.Popen(["sleep", "300"]) as stranger:

        async def scenario() -> None:
            link = await GuardLink.start(limits=limits(0.3), unit=unit)
            await link.prove("s", at=CLOCK.now())
            await link.arm(HostProcesses().attach(guest.pid), session="s")
            await HostProcesses().attach(guest.pid).gone()
            await CLOCK.sleep(0.5)
            await link.close()

        run(scenario())
        assert stranger.poll() is None
        stranger.kill()


def test_a_guard_of_a_unit_that_hangs_or_is_closed_has_ended(unit: str) -> None:
    async def scenario(*, hangs: bool) -> int:
        link = await GuardLink.start(limits=limits(1.0), unit=unit)
        if hangs:
            os.kill(link.pid, signal.SIGSTOP)
            with pytest.raises(GuardLost):
                await link.prove("s", at=CLOCK.now())
            link.kill()
        else:
            await link.close()
        return link.pid

    pids = [run(scenario(hangs=hangs)) for hangs in (True, False)]
    assert comes_true(lambda: not any(map(lives, pids)))


@pytest.mark.parametrize("listens", [None, False, True], ids=["no socket", "nobody listens", "nobody answers"])
def test_where_no_unit_answers_a_child_guards(
    listens: bool | None, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etcdlock.adapters.guardlink._UNIT_STARTS_WITHIN_SECONDS", 0.3)
    path = str(tmp_path / "guard.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        if listens is not None:
            door.bind(path)
        if listens:
            door.listen()

        async def scenario() -> bool:
            link = await GuardLink.start(limits=limits(1.0), unit=path)
            await link.close()
            return link.is_child

        with caplog.at_level(logging.WARNING):
            assert run(scenario())
    assert ("no_guard_in_its_unit" in caplog.text) is (listens is not None), "what is not set up is no trouble"


def test_the_units_program_is_not_for_hands() -> None:
    done = subprocess.run([sys.executable, "-c", ENTRY], env=WITH_PACKAGE, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "etcdlock-guard.socket" in done.stderr


def test_a_guard_in_a_unit_outlives_whoever_asked_for_it_until_its_guest_is_gone(unit: str) -> None:
    with subprocess.Popen(["sleep", "300"]) as guest:

        async def scenario() -> int:
            link = await GuardLink.start(limits=limits(300.0), unit=unit)
            await link.prove("s", at=CLOCK.now())
            await link.arm(HostProcesses().attach(guest.pid), session="s")
            guard = os.pidfd_open(link.pid)
            await link.close()
            return guard

        guard = run(scenario())
        assert not ends(guard, within_seconds=0.3)
        guest.kill()
        guest.wait()
        assert ends(guard)
        os.close(guard)
