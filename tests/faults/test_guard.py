"""The guard as a real process: guests die at their deadline whatever becomes of the program that started them."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from etcdlock.escalation import KILLED
from etcdlock.guard import instant, table, wire
from tests.faults.guarding import (
    BUDGET_SECONDS,
    CLOCK,
    DAEMON,
    DEADLINE_SECONDS,
    PARENT,
    RAW_STOP_AFTER_SECONDS,
    SLACK_SECONDS,
    STUBBORN,
    carrying,
    comes_true,
    ends,
    guarded,
    lives,
    raw_guard,
)

LOOKED_FOR_SECONDS = 1.5
"""In this time the guard has looked for its guests' processes at least once."""


@pytest.mark.parametrize("fate", [signal.SIGKILL, signal.SIGSTOP, None])
def test_a_guest_dies_at_its_deadline_whatever_becomes_of_its_parent(fate: signal.Signals | None) -> None:
    with guarded(sys.executable, "-c", STUBBORN) as on:
        assert comes_true(lambda: len(carrying(on.guest)) == 2)
        pidfd = os.pidfd_open(on.leader)
        if fate is not None:
            on.program.send_signal(fate)
        assert not ends(pidfd, within_seconds=BUDGET_SECONDS / 2), "killed long before its deadline"
        assert ends(pidfd)
        os.close(pidfd)
        assert comes_true(lambda: not carrying(on.guest))
        assert CLOCK.now() - on.begun < BUDGET_SECONDS + SLACK_SECONDS


def test_a_guest_that_is_stopped_is_killed_too() -> None:
    with guarded(sys.executable, "-c", STUBBORN, "stopped") as on:
        pidfd = os.pidfd_open(on.leader)
        on.program.send_signal(signal.SIGSTOP)
        assert ends(pidfd)
        os.close(pidfd)


def test_a_command_does_not_outlive_its_parent_and_its_guard_when_both_are_killed_at_once() -> None:
    with guarded("sleep", "300", budget_seconds=300.0) as on:
        assert comes_true(lambda: on.leader in carrying(on.guest)), "it is no longer the gate"
        pidfd = os.pidfd_open(on.leader)
        os.kill(on.program.pid, signal.SIGSTOP)     # or it would start another guard
        os.kill(on.guard, signal.SIGKILL)
        on.program.kill()
        assert ends(pidfd)
        os.close(pidfd)


@pytest.mark.parametrize("starter", ["stay", "end"])
@pytest.mark.parametrize("fate", [signal.SIGKILL, signal.SIGSTOP])
def test_a_daemon_dies_too_that_has_nothing_of_the_guest_any_more(
    fate: signal.Signals, starter: str, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    files = [str(tmp_path / name) for name in ("pid", "fifo")]
    budget_seconds = LOOKED_FOR_SECONDS + BUDGET_SECONDS
    with guarded(sys.executable, "-c", DAEMON, *files, starter, budget_seconds=budget_seconds) as on:
        assert comes_true((tmp_path / "pid").exists)
        daemon = int((tmp_path / "pid").read_text(encoding="ascii"))
        assert not comes_true(lambda: not lives(daemon), within_seconds=LOOKED_FOR_SECONDS)
        on.program.send_signal(fate)
        assert comes_true(lambda: not lives(daemon))
        assert CLOCK.now() - on.begun < budget_seconds + SLACK_SECONDS


def test_a_guest_that_runs_guests_of_its_own_takes_them_along() -> None:
    inner = [sys.executable, str(PARENT), "300", "sleep", "300"]
    with guarded("sh", "-c", f"{' '.join(inner)}; sleep 300") as on:
        _, inner_guest = on.line(), on.line()
        assert comes_true(lambda: carrying(inner_guest))
        assert carrying(inner_guest) < carrying(on.guest)
        on.program.kill()
        assert comes_true(lambda: not carrying(on.guest))
        assert CLOCK.now() - on.begun < BUDGET_SECONDS + SLACK_SECONDS


def test_a_parent_that_slept_past_the_deadline_cannot_open_the_gate_any_more(tmp_path: Path) -> None:
    with guarded("--shut", "touch", str(tmp_path / "ran")) as on:
        pidfd = os.pidfd_open(on.leader)
        on.program.send_signal(signal.SIGSTOP)
        on.prod()
        assert ends(pidfd)
        assert CLOCK.now() - on.begun < BUDGET_SECONDS + SLACK_SECONDS
        on.program.send_signal(signal.SIGCONT)
        assert comes_true(lambda: not lives(on.leader))
        assert not comes_true((tmp_path / "ran").exists, within_seconds=0.3)
        os.close(pidfd)


def test_a_guest_whose_gate_is_shut_ends_with_its_parent_and_never_runs(tmp_path: Path) -> None:
    with guarded("--shut", "touch", str(tmp_path / "ran"), budget_seconds=300.0) as on:
        on.program.kill()
        assert ends(on.guard_pidfd)
        assert not lives(on.leader)
        assert not (tmp_path / "ran").exists()


def test_a_guard_without_guests_ends_with_its_parent() -> None:
    with guarded() as on:
        assert not ends(on.guard_pidfd, within_seconds=0.1)
        on.program.kill()
        assert ends(on.guard_pidfd)


def test_a_guard_whose_guest_ended_by_itself_does_not_wait_for_the_deadline() -> None:
    with guarded("true", budget_seconds=300.0) as on:
        on.program.kill()
        assert ends(on.guard_pidfd)


@pytest.mark.parametrize("fate", [signal.SIGKILL, signal.SIGSTOP])
def test_a_guard_that_dies_or_hangs_has_a_successor_that_keeps_the_deadline(fate: signal.Signals) -> None:
    budget_seconds = 4.0
    with guarded(sys.executable, "-c", STUBBORN, budget_seconds=budget_seconds) as on:
        os.kill(on.guard, fate)
        if fate is signal.SIGSTOP:
            on.prod()        # a guard that hangs is noticed when it is told something
        successor = os.pidfd_open(int(on.line()))
        assert ends(on.guard_pidfd), "two guards at once"
        on.prod()
        pidfd = os.pidfd_open(on.leader)
        assert not ends(pidfd, within_seconds=0.3)
        on.program.kill()
        assert ends(pidfd)
        assert budget_seconds * 0.8 < CLOCK.now() - on.begun < budget_seconds + SLACK_SECONDS
        assert ends(successor)
        assert not carrying(on.guest)
        os.close(pidfd)
        os.close(successor)


def test_a_guard_that_the_host_grants_nothing_any_more_goes_on_and_does_what_it_can() -> None:
    with guarded(sys.executable, "-c", STUBBORN) as on:
        assert comes_true(lambda: len(carrying(on.guest)) == 2)
        pidfd = os.pidfd_open(on.leader)
        soft, hard = resource.prlimit(on.guard, resource.RLIMIT_NOFILE)
        resource.prlimit(on.guard, resource.RLIMIT_NOFILE, (3, hard))
        on.program.kill()
        assert ends(pidfd)
        assert CLOCK.now() - on.begun < BUDGET_SECONDS + SLACK_SECONDS
        assert not ends(on.guard_pidfd, within_seconds=0.3)
        assert carrying(on.guest), "it could open nothing: the rest of the guest lives"
        resource.prlimit(on.guard, resource.RLIMIT_NOFILE, (soft, hard))
        assert comes_true(lambda: not carrying(on.guest))
        os.close(pidfd)


def test_a_guest_for_which_the_last_descriptor_is_not_enough_is_refused_and_harms_no_other() -> None:
    with ExitStack() as on:
        guests = [on.enter_context(subprocess.Popen(["sleep", "300"])) for _ in range(2)]
        for guest in guests:
            on.callback(guest.kill)
        link, guard = on.enter_context(raw_guard())
        link.send(wire.pack(wire.PROVE, 1, CLOCK.now() - RAW_STOP_AFTER_SECONDS + 1.5, "s"))
        assert link.recv(100) == b"done 1"
        soft, hard = resource.prlimit(guard.pid, resource.RLIMIT_NOFILE)
        used = {int(entry.name) for entry in Path(f"/proc/{guard.pid}/fd").iterdir()}
        first_free = min(set(range(len(used) + 1)) - used)
        resource.prlimit(guard.pid, resource.RLIMIT_NOFILE, (first_free + 1, hard))
        assert armed(link, guests[0]).startswith(b"refused")
        resource.prlimit(guard.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert [armed(link, guest) for guest in guests] == [b"done 2", b"done 2"]
        link.close()
        assert [guest.wait(DEADLINE_SECONDS) for guest in guests] == [-signal.SIGKILL] * 2


def armed(link: socket.socket, guest: subprocess.Popen[bytes]) -> bytes:
    """The guard's answer."""
    process, pidfd = table.look_up(guest.pid), os.pidfd_open(guest.pid)
    assert process is not None
    socket.send_fds(link, [wire.pack(wire.ARM, 2, process.name, wire.pack_charge("s", KILLED))], [pidfd])
    os.close(pidfd)
    return link.recv(100)


# ---- the guard itself


def test_the_guard_keeps_none_of_its_parents_descriptors() -> None:
    with raw_guard() as (_, guard):
        mine = open_files(guard.pid) - {"/proc"}    # which it may be looking through
        assert {name.partition(":")[0] for name in mine} == {"/dev/null", "socket", "pipe"}
        assert not {name for name in mine & open_files(os.getpid()) if name.startswith("pipe")}


def test_a_guard_gives_way_to_a_successor_only_once_its_own_program_is_gone() -> None:
    with subprocess.Popen(["sleep", "300"]) as guest, raw_guard() as (link, guard):
        process = table.look_up(guest.pid)
        assert process is not None
        link.send(wire.pack(wire.PROVE, 1, CLOCK.now(), "s"))
        words = wire.pack(wire.ARM, 2, process.name, wire.pack_charge("s", KILLED))
        socket.send_fds(link, [words], [os.pidfd_open(guest.pid)])
        assert [link.recv(100), link.recv(100)] == [b"done 1", b"done 2"]
        guard.send_signal(signal.SIGUSR2)
        link.close()
        with pytest.raises(subprocess.TimeoutExpired):
            guard.wait(0.5)
        guard.send_signal(signal.SIGUSR2)
        assert guard.wait(DEADLINE_SECONDS) == 0
        assert guest.poll() is None
        guest.kill()


def test_the_guard_ignores_what_ends_or_stops_others() -> None:
    with guarded("sleep", "300") as on:
        for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "ALRM", "TSTP"):
            os.kill(on.guard, signal.Signals[f"SIG{name}"])
        assert not ends(on.guard_pidfd, within_seconds=0.1)
        on.program.send_signal(signal.SIGSTOP)
        assert comes_true(lambda: not carrying(on.guest)), "a signal has stopped the guard"


def open_files(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):       # the listing's own
            found.add(str(entry.readlink()))
    return found


@pytest.mark.parametrize(
    ("capability", "claimed"),
    [
        (14, lambda guard: int(status(guard, "VmLck").split()[0]) > 0),
        (23, lambda guard: os.sched_getscheduler(guard) == os.SCHED_RR | os.SCHED_RESET_ON_FORK),
        (24, lambda guard: Path(f"/proc/{guard}/oom_score_adj").read_text(encoding="ascii") == "-1000\n"),
    ],
    ids=["locked memory", "real time", "spared by the OOM killer"],
)
def test_the_guard_claims_what_the_host_allows(capability: int, claimed: Callable[[int], bool]) -> None:
    is_allowed = bool(int(status(os.getpid(), "CapEff"), 16) >> capability & 1)
    with guarded("sleep", "300") as on:
        assert claimed(on.guard) or not is_allowed
        assert int(status(on.guard, "VmRSS").split()[0]) < 15 * 1024, "KiB"


def status(pid: int, field: str) -> str:
    """One line of /proc/<pid>/status."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:"))


def test_the_guard_loads_nothing_of_the_package_but_itself_and_its_ladder() -> None:
    with raw_guard("-X", "importtime") as (link, guard):
        link.shutdown(socket.SHUT_RDWR)
        _, imports = guard.communicate(timeout=DEADLINE_SECONDS)
    loaded = {line.rpartition("|")[2].strip() for line in imports.decode().splitlines()}
    assert "etcdlock.guard.rules" in loaded
    assert {name for name in loaded if name.startswith("etcdlock")} == {
        "etcdlock.escalation",
        "etcdlock.guard",
        *(
            f"etcdlock.guard.{part}"
            for part in (
                *("cgroup", "command", "families", "handle", "instant", "loop", "recorder", "rules", "search",
                  "stillness"),
                *("table", "watchdog", "wire"),
            )
        ),
    }
    assert not loaded & {"asyncio", "inspect", "json", "logging", "subprocess", "site", "typing"}


def test_both_sides_read_one_clock() -> None:
    before = instant.read()
    now = CLOCK.now()
    after = instant.read()
    assert before.steady_seconds - 0.001 <= now <= after.steady_seconds + 0.001
    assert before.boot_seconds <= after.boot_seconds
