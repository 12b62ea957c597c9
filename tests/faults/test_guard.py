"""The guard as a real process: guests die at their deadline whatever becomes of the program that started them."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

import etcdlock
from etcdlock.adapters.clock import BootClock
from etcdlock.adapters.guardlink import GuardLink
from etcdlock.adapters.processes import LocalGuest, LocalGuests
from etcdlock.errors import SessionLost
from etcdlock.guard import instant, table
from etcdlock.ports import ExitStatus

DEADLINE_SECONDS = 15.0
BUDGET_SECONDS = 0.8
SLACK_SECONDS = 0.6
PROGRAM = Path(table.__file__).with_name("__main__.py")
PARENT = Path(__file__).with_name("guarded_parent.py")
CLOCK = BootClock()
T = TypeVar("T")

BACKGROUND = "trap '' TERM INT HUP; (trap '' TERM; exec sleep 300) & sleep 300"
DAEMONS = """
import os, signal
if os.fork(): signal.pause()
os.setsid()
if os.fork(): os._exit(0)
signal.pause()
"""


def run(what: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await what

    return asyncio.run(bounded())


def ends(pidfd: int, *, within_seconds: float = DEADLINE_SECONDS) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(within_seconds * 1000))


def carrying(mark: str) -> set[int]:
    """Living processes whose environment has this guest's mark."""
    pid, start = map(int, mark.split(":"))
    return {name.pid for name in table.marked(table.read_table(), leader=table.Name(pid, start))}


@contextmanager
def parent(*command: str, budget_seconds: float = BUDGET_SECONDS) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """The program, a pidfd of its guard, and its guest's name."""
    program = subprocess.Popen(
        [sys.executable, str(PARENT), str(budget_seconds), *command],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(etcdlock.__file__).parents[1])},
    )
    assert program.stdout is not None
    guard, pid, start = program.stdout.readline().split()
    guard_pidfd = os.pidfd_open(int(guard))
    try:
        yield program, guard_pidfd, f"{pid}:{start}"
    finally:
        program.kill()
        program.wait()
        program.stdout.close()
        assert ends(guard_pidfd), "the guard outlived its guests"
        os.close(guard_pidfd)


@pytest.mark.parametrize("fate", [signal.SIGKILL, signal.SIGSTOP, None])
def test_a_guest_dies_at_its_deadline_whatever_becomes_of_its_parent(fate: signal.Signals | None) -> None:
    with parent("sh", "-c", BACKGROUND) as (program, _, guest):
        begun = CLOCK.now()
        pidfd = os.pidfd_open(int(guest.split(":")[0]))
        if fate is not None:
            program.send_signal(fate)
        assert not ends(pidfd, within_seconds=BUDGET_SECONDS / 2), "killed long before its deadline"
        assert ends(pidfd)
        assert CLOCK.now() - begun < BUDGET_SECONDS + SLACK_SECONDS
        os.close(pidfd)
        assert nothing_left(guest)


def nothing_left(mark: str) -> bool:
    """Within a strike or two."""
    until = CLOCK.now() + 2.0
    while carrying(mark) and CLOCK.now() < until:
        select.select([], [], [], 0.02)
    return not carrying(mark)


@pytest.mark.parametrize("fate", [signal.SIGKILL, signal.SIGSTOP])
def test_a_daemon_of_the_guest_dies_too_though_its_parent_is_dead_and_it_left_the_group(fate: signal.Signals) -> None:
    with parent(sys.executable, "-c", DAEMONS) as (program, _, guest):
        while len(carrying(guest)) < 2:
            select.select([], [], [], 0.01)
        program.send_signal(fate)
        assert nothing_left(guest)


def test_a_guest_that_is_stopped_is_killed_too() -> None:
    with parent("sh", "-c", "kill -STOP $$") as (program, _, guest):
        pidfd = os.pidfd_open(int(guest.split(":")[0]))
        program.send_signal(signal.SIGSTOP)
        assert ends(pidfd)
        os.close(pidfd)


def test_a_guard_without_guests_ends_with_its_parent() -> None:
    with parent() as (program, guard_pidfd, _):
        assert not ends(guard_pidfd, within_seconds=0.1)
        program.kill()
        assert ends(guard_pidfd)


def test_a_guard_whose_guest_ended_by_itself_does_not_wait_for_the_deadline() -> None:
    with parent("true", budget_seconds=300.0) as (program, guard_pidfd, _):
        program.kill()
        assert ends(guard_pidfd)


def test_the_guard_keeps_none_of_its_parents_descriptors_and_ignores_what_ends_others() -> None:
    with parent("sleep", "300") as (program, guard_pidfd, _):
        guard = child_guard(program, guard_pidfd)
        open_files = {os.readlink(f"/proc/{guard}/fd/{entry}") for entry in os.listdir(f"/proc/{guard}/fd")}
        assert {name.split(":")[0] for name in open_files} == {"/dev/null", "socket", "anon_inode"}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(guard, number)
        assert not ends(guard_pidfd, within_seconds=0.1)


def test_the_guard_loads_nothing_of_the_package_but_itself_and_its_ladder() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    with theirs:
        ran = subprocess.run(
            [sys.executable, "-I", "-S", "-X", "importtime", str(PROGRAM), str(theirs.fileno()), "1", "1"],
            pass_fds=(theirs.fileno(),),
            stderr=subprocess.PIPE,
            text=True,
            check=True,
            timeout=DEADLINE_SECONDS,
        )
    loaded = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert "etcdlock.guard.rules" in loaded
    assert {name for name in loaded if name.startswith("etcdlock")} == {
        "etcdlock.escalation",
        "etcdlock.guard",
        "etcdlock.guard.instant",
        "etcdlock.guard.rules",
        "etcdlock.guard.table",
        "etcdlock.guard.wire",
    }
    assert not loaded & {"asyncio", "json", "logging", "subprocess", "site", "typing"}


def test_the_guard_stays_small() -> None:
    with parent("sleep", "300") as (program, guard_pidfd, _):
        status = Path(f"/proc/{child_guard(program, guard_pidfd)}/status").read_text(encoding="ascii")
    resident_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident_kib < 32 * 1024


def child_guard(program: subprocess.Popen[str], guard_pidfd: int) -> int:
    """The guard's pid, from the kernel's word on its pidfd."""
    lines = Path(f"/proc/self/fdinfo/{guard_pidfd}").read_text(encoding="ascii").splitlines()
    pid = next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))
    process = table.look_up(pid)
    assert process is not None and process.parent == program.pid
    return pid


class Scene:
    """A guest under a guard, both ours."""

    def __init__(self, link: GuardLink, guest: LocalGuest) -> None:
        self.link = link
        self.guest = guest


async def scene(*, budget_seconds: float = BUDGET_SECONDS) -> Scene:
    link = await GuardLink.start(budget_seconds=budget_seconds, kill_seconds=5.0)
    return Scene(link, await LocalGuests().start(["sleep", "300"], environment={}))


async def end(what: Scene) -> None:
    what.guest.kill()
    await what.guest.gone()
    await what.link.close()


def test_a_proof_moves_the_deadline() -> None:
    async def scenario() -> float:
        on = await scene()
        begun = CLOCK.now()
        await on.link.prove("s", at=begun)
        await on.link.arm(on.guest, session="s")
        on.guest.open_gate(token=1)
        await CLOCK.sleep(BUDGET_SECONDS / 2)
        await on.link.prove("s", at=CLOCK.now())
        assert (await on.guest.gone()).signal == signal.SIGKILL
        lived = CLOCK.now() - begun
        await end(on)
        return lived

    assert BUDGET_SECONDS * 1.5 <= run(scenario()) < BUDGET_SECONDS * 1.5 + SLACK_SECONDS


def test_a_disarmed_guest_outlives_the_deadline() -> None:
    async def scenario() -> None:
        on = await scene(budget_seconds=0.3)
        await on.link.prove("s", at=CLOCK.now())
        await on.link.arm(on.guest, session="s")
        await on.link.disarm(on.guest)
        await CLOCK.sleep(0.6)
        assert not ends(on.guest.pidfd, within_seconds=0)
        await end(on)

    run(scenario())


def test_a_guest_is_not_taken_in_under_a_session_that_is_not_proven() -> None:
    async def scenario() -> None:
        on = await scene()
        with pytest.raises(SessionLost, match="never proven"):
            await on.link.arm(on.guest, session="s")
        await on.link.prove("s", at=CLOCK.now() - 2 * BUDGET_SECONDS)
        with pytest.raises(SessionLost, match="never proven|not proven any more"):
            await on.link.arm(on.guest, session="s")
        await end(on)

    run(scenario())


def test_a_guard_that_was_killed_is_noticed_and_answers_no_more() -> None:
    async def scenario() -> None:
        on = await scene()
        os.kill(on.link.pid, signal.SIGKILL)
        await on.link.died()
        with pytest.raises(SessionLost):
            await on.link.prove("s", at=CLOCK.now())
        await end(on)

    run(scenario())


def test_a_guard_that_hangs_is_as_good_as_none() -> None:
    async def scenario() -> None:
        on = await scene()
        os.kill(on.link.pid, signal.SIGSTOP)
        with pytest.raises(SessionLost):
            await on.link.prove("s", at=CLOCK.now())
        os.kill(on.link.pid, signal.SIGKILL)
        await end(on)

    run(scenario())


def test_a_closed_guard_has_ended() -> None:
    async def scenario() -> int:
        link = await GuardLink.start(budget_seconds=1.0, kill_seconds=1.0)
        await link.close()
        return link.pid

    assert table.look_up(run(scenario())) is None


class Impostor:
    """A guest whose process ended, and whose pid and group are now a stranger's."""

    def __init__(self, stranger: subprocess.Popen[bytes]) -> None:
        process = table.look_up(stranger.pid)
        assert process is not None
        ended = subprocess.Popen(["true"])
        self.pid, self.pid_start, self.pidfd = stranger.pid, process.name.start - 1, os.pidfd_open(ended.pid)
        ended.wait()

    def open_gate(self, *, token: int) -> None:
        raise AssertionError

    def signal(self, number: int, /) -> None:
        raise AssertionError

    def kill(self) -> None:
        raise AssertionError

    async def gone(self) -> ExitStatus:
        raise AssertionError


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "300"], process_group=0)
    yield process
    process.kill()
    process.wait()


def test_a_stranger_who_got_the_guests_number_is_not_hit(stranger: subprocess.Popen[bytes]) -> None:
    async def scenario() -> None:
        link = await GuardLink.start(budget_seconds=0.3, kill_seconds=1.0)
        await link.prove("s", at=CLOCK.now())
        impostor = Impostor(stranger)
        await link.arm(impostor, session="s")
        await CLOCK.sleep(0.6)
        os.close(impostor.pidfd)
        await link.close()

    run(scenario())
    assert stranger.poll() is None


def test_both_sides_read_one_clock() -> None:
    before = instant.read()
    now = CLOCK.now()
    after = instant.read()
    assert before.steady_seconds - 0.001 <= now <= after.steady_seconds + 0.001
    assert before.boot_seconds <= after.boot_seconds
