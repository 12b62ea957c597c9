"""A disk that hangs, the one that all of the guard lies on, does not stop the guard.

Once it keeps watch it opens no file but the kernel's own, and loads no module anew.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from etcdlock.escalation import Action, Charge
from etcdlock.guard import table, wire
from etcdlock.guard.wire import Equipment
from tests.faults.frozen_disk import disk, done, thaw
from tests.faults.guarding import (
    CLOCK,
    DEADLINE_SECONDS,
    GUARD,
    RAW_STOP_AFTER_SECONDS,
    comes_true,
    ends,
    lives,
    raw_guard,
)

AUDITED = """
import json, os, runpy, sys
seen, watching, end = [], [], os._exit

def hook(event, arguments):
    if event == "socket.sendmsg":       # with its first words it says that it keeps watch
        watching.append(event)
    if watching and event in ("open", "import", "os.listdir", "os.scandir", "os.chdir", "exec", "compile"):
        seen.append([event, str(arguments[0])])

def ended(status):
    found = list(seen)
    with open(os.environ["AUDIT"], "w") as stream:
        json.dump(found, stream)
    end(status)

os._exit = ended
sys.addaudithook(hook)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
LATE_SECONDS = 2.0
LIFE_SECONDS = RAW_STOP_AFTER_SECONDS


def test_a_whole_life_of_guests_takes_the_guard_to_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests that are killed, frozen, let go on by somebody, that end by themselves; the agent gone at last."""
    audit = tmp_path / "audit"
    monkeypatch.setenv("AUDIT", str(audit))
    with raw_guard("-c", AUDITED) as (link, guard), ExitStack() as stack:
        guests = [stack.enter_context(subprocess.Popen(["sleep", "300"])) for _ in range(4)]
        for guest in guests:
            stack.callback(guest.kill)
        proven = CLOCK.now() - LIFE_SECONDS + 0.8
        said(link, wire.PROVE, proven, "s")
        for guest, action in zip(guests, [Action.KILL, Action.FREEZE, Action.KILL, Action.KILL], strict=True):
            process = table.look_up(guest.pid)
            assert process is not None
            pidfd = os.pidfd_open(guest.pid)
            said(link, wire.ARM, process.name, wire.pack_charge("s", Charge(action)), pidfd=pidfd)
            os.close(pidfd)
        guests[2].kill()
        assert comes_true(lambda: not lives(guests[0].pid))
        while not link.recv(200).startswith(b"frozen "):    # until then it is stopped again, and stands
            pass
        pidfd = os.pidfd_open(guard.pid)
        link.close()
        os.kill(guests[1].pid, signal.SIGCONT)      # it was not armed anew: it is killed
        assert ends(pidfd, within_seconds=30.0)
        os.close(pidfd)
    seen = json.loads(audit.read_text(encoding="utf-8"))
    assert any(event == "open" and name.startswith("/proc/") for event, name in seen), "nothing was recorded"
    kernels = ("/proc", "/sys/fs/cgroup/")
    assert [[event, name] for event, name in seen if event == "import" or not name.startswith(kernels)] == []


def installed(point: Path, *, planted: str) -> Path:
    """The interpreter's program and the guard's, there; its loop does what is planted, in each round."""
    package = point / "etcdlock"
    shutil.copytree(GUARD.parent, package / "guard")
    shutil.copy(GUARD.parents[1] / "escalation.py", package)
    shutil.copy(Path(sys.executable).resolve(), point / "python")
    loop, begins = package / "guard" / "loop.py", "    def _act(self) -> None:\n"
    text = loop.read_text(encoding="utf-8")
    assert text.count(begins) == 1
    loop.write_text(text.replace(begins, f"{begins}        {planted}\n"), encoding="utf-8")
    return package / "guard" / GUARD.name


@pytest.mark.parametrize(
    ("planted", "in_time"), [("pass", True), ("open('log', 'ab').write(b'.')", False)], ids=["guard", "planted"]
)
def test_a_disk_that_hangs_stops_no_guard_but_one_that_writes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str, in_time: bool
) -> None:
    """All that the guard is of lies on that disk: programs, folder, log. Nobody can write to it until it is thawed.
    Reading a frozen ext4 does not hang: that nothing is read there, the other test shows.
    """
    monkeypatch.setenv("PYTHONHOME", sys.base_prefix)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    with ExitStack() as stack:
        point = stack.enter_context(disk(tmp_path))
        file = installed(point, planted=planted)
        guest = stack.enter_context(subprocess.Popen(["sleep", "300"]))
        stack.callback(guest.kill)
        errors = stack.enter_context((point / "errors").open("wb"))
        python = (str(point / "python"), "-s", "-P", "-S")
        link, _ = stack.enter_context(raw_guard(python=python, guard_file=file, folder=point, errors=errors))
        stack.callback(thaw, point)
        deadline = CLOCK.now() + 3.0
        said(link, wire.PROVE, deadline - LIFE_SECONDS, "s")
        process = table.look_up(guest.pid)
        assert process is not None
        pidfd = os.pidfd_open(guest.pid)
        said(link, wire.ARM, process.name, wire.pack_charge("s", Charge(Action.KILL)), pidfd=pidfd)
        os.close(pidfd)
        done("fsfreeze", "-f", point)
        assert guest.poll() is None
        assert CLOCK.now() < deadline, "the machine is too slow: it was not frozen in time"
        left_seconds = deadline + LATE_SECONDS - CLOCK.now()
        assert comes_true(lambda: guest.poll() is not None, within_seconds=left_seconds) is in_time
        done("fsfreeze", "-u", point)
        assert guest.wait(DEADLINE_SECONDS) == -signal.SIGKILL


def test_a_guard_forgets_no_guest_of_which_something_sleeps_in_the_kernel_while_it_writes(tmp_path: Path) -> None:
    """Its first process has ended, and what it has left behind was never seen otherwise than asleep."""
    with disk(tmp_path) as point, ExitStack() as stack:
        link, _ = stack.enter_context(raw_guard())
        leader = stack.enter_context(subprocess.Popen(["sleep", "300"]))
        stack.callback(leader.kill)
        process = table.look_up(leader.pid)
        assert process is not None
        done("fsfreeze", "-f", point)
        marked = {**os.environ, table.MARK: str(process.name)}
        left = stack.enter_context(subprocess.Popen(writer(point), env=marked, start_new_session=True))
        stack.callback(thaw, point)
        assert comes_true(lambda: (found := table.look_up(left.pid)) is not None and found.waiting)
        said(link, wire.PROVE, CLOCK.now(), "s")
        pidfd = os.pidfd_open(leader.pid)
        said(link, wire.ARM, process.name, wire.pack_charge("s", Charge(Action.KILL)), pidfd=pidfd)
        os.close(pidfd)
        leader.kill()
        link.settimeout(1.5)
        with pytest.raises(TimeoutError):
            hear_of_an_end(link)
        thaw(point)
        link.settimeout(DEADLINE_SECONDS)
        hear_of_an_end(link)


def test_a_watchdog_that_was_left_is_opened_as_soon_as_it_may_be_fed_and_no_sooner(tmp_path: Path) -> None:
    """By a successor that was told of all guests, one of which does not die when it is killed.

    The device's place takes a file, which is found to be none by opening it; what is given up is stopped for good.
    """
    device = tmp_path / "watchdog"
    device.touch()
    with disk(tmp_path) as point, ExitStack() as stack:
        link, _ = stack.enter_context(raw_guard(equipment=Equipment(str(device), watchdog_seconds=5, waits=True)))
        guest = stack.enter_context(stuck_guest(link, point))
        said(link, wire.WATCH)
        assert not comes_true(device.read_bytes, within_seconds=0.5)
        thaw(point)
        assert comes_true(device.read_bytes)
        assert guest.wait(DEADLINE_SECONDS) == -signal.SIGKILL


def test_a_guest_that_does_not_die_costs_the_guard_few_looks_at_the_whole_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a host with thousands of processes it could not answer its program in time, which takes that for its end."""
    audit = tmp_path / "audit"
    monkeypatch.setenv("AUDIT", str(audit))
    with disk(tmp_path) as point, ExitStack() as stack:
        link, guard = stack.enter_context(raw_guard("-c", AUDITED))
        begun = CLOCK.now()
        stack.enter_context(stuck_guest(link, point))
        thaw(point)
        hear_of_an_end(link)
        seconds = CLOCK.now() - begun
        link.close()
        guard.wait(DEADLINE_SECONDS)
    looks = json.loads(audit.read_text(encoding="utf-8")).count(["os.listdir", "/proc"])
    assert 10 < looks < 45 * seconds, "it is struck ten times a second"


def hear_of_an_end(link: socket.socket) -> None:
    while not link.recv(200).startswith(b"gone "):
        pass


def writer(point: Path) -> list[str]:
    """A command that does not die while the disk is frozen."""
    return ["dd", "if=/dev/zero", f"of={point}/image", "count=1", "conv=fsync", "status=none"]


@contextmanager
def stuck_guest(link: socket.socket, point: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One that was to die by now, and has not, since its disk is frozen; that is thawed at the end."""
    done("fsfreeze", "-f", point)
    with ExitStack() as stack:
        guest = stack.enter_context(subprocess.Popen(writer(point)))
        stack.callback(thaw, point)
        assert comes_true(lambda: (found := table.look_up(guest.pid)) is not None and found.waiting)
        process, pidfd = table.look_up(guest.pid), os.pidfd_open(guest.pid)
        assert process is not None
        said(link, wire.PROVE, CLOCK.now() - LIFE_SECONDS + 0.2, "s")
        said(link, wire.ARM, process.name, wire.pack_charge("s", Charge(Action.KILL)), pidfd=pidfd)
        os.close(pidfd)
        while not link.recv(200).startswith(b"stuck "):
            pass
        yield guest


def said(link: socket.socket, verb: str, *fields: object, pidfd: int | None = None) -> None:
    packet = wire.pack(verb, "7", *fields)
    if pidfd is None:
        link.send(packet)
    else:
        socket.send_fds(link, [packet], [pidfd])
    while not (answer := link.recv(200)).startswith((b"done", b"refused")):
        pass
    assert answer == b"done 7"
