"""The real agent with a real etcd: its API serves what the command line says, and ends when the agent is told to."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcdlock.api.client import AgentClient
from etcdlock.errors import EtcdlockError, HeldElsewhere, Unreachable
from etcdlock.model import Owner
from tests.cli.conftest import cluster, etcd
from tests.cli.hosts import Cluster, Running
from tests.promises.world import disk, domain

__all__ = ["cluster", "etcd"]

VM, OTHER, A = domain(0x1234), domain(0x5678), disk("a")
UP_SECONDS = 20.0


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two that do nothing, in place of guests."""
    started = [subprocess.Popen(["sleep", "300"]) for _ in range(2)]
    yield started
    for process in started:
        process.kill()
        process.wait()


def agent(cluster: Cluster, folder: Path, **more: str) -> tuple[Running, AgentClient]:
    """Up and serving."""
    settings = {"ETCDLOCK_RUN_FOLDER": str(folder), "ETCDLOCK_LOCK_SOCKET": str(folder / "libvirt.sock"), **more}
    settings["ETCDLOCK_STATE_FOLDER"] = str(folder)
    running = cluster.start("agent", **settings)
    client, deadline = AgentClient(str(folder / "agent.sock")), time.monotonic() + UP_SECONDS
    while True:
        try:
            client.agent()
        except Unreachable:
            assert time.monotonic() < deadline, running.err
            time.sleep(0.05)  # a program starts in real time
        else:
            return running, client


def test_a_guest_is_locked_shown_and_given_back_through_the_agent(
    cluster: Cluster, tmp_path: Path, processes: list[subprocess.Popen[bytes]]
) -> None:
    running, client = agent(cluster, tmp_path)
    client.acquire(Owner(VM, processes[0].pid), (A,))
    with pytest.raises(HeldElsewhere):
        client.acquire(Owner(OTHER, processes[1].pid), (A,))
    shown = json.loads(cluster.do("status", "--json").out)
    told = client.status()
    assert shown["locks"] == told["locks"]
    assert [lock["pid"] for lock in told["locks"]] == [processes[0].pid]
    for process in processes:
        process.kill()
        process.wait()
    assert not client.release(VM.uuid)["held"]
    running.send(signal.SIGTERM)
    assert running.ended().status == 0


def test_an_agent_that_is_told_to_end_does_not_wait_for_those_who_follow_its_events(
    cluster: Cluster, tmp_path: Path
) -> None:
    running, client = agent(cluster, tmp_path)
    assert client.agent()["phase"] == "live"
    with socket.socket(socket.AF_UNIX) as following:
        following.connect(str(tmp_path / "agent.sock"))
        following.sendall(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200 OK" in following.recv(4096)
        began = time.monotonic()
        running.send(signal.SIGTERM)
        assert running.ended().status == 0
    assert time.monotonic() - began < 5.0
    with pytest.raises(EtcdlockError):
        client.agent()
