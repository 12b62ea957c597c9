"""A real etcd that comes back from a backup, under a real guest that sits the outage out frozen."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from etcdlock.adapters.embedded_ports import free_ports
from tests.cli.hosts import DEADLINE_SECONDS, SHORT_TIMING, Cluster
from tests.contract.etcds import SYSTEM, binary_of

COUNTS = "n=0; while :; do n=$((n+1)); echo $n > {}; sleep 0.02; done"


@contextmanager
def etcd_on(data: Path, *, port: int, peer: int) -> Iterator[None]:
    """Debian's etcd on a folder of data, ended as by a power cut."""
    client, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    command = [
        binary_of(SYSTEM), "--data-dir", str(data), "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as etcd:
        try:
            _until_healthy(client)
            yield
        finally:
            etcd.kill()


def _until_healthy(client: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{client}/health", timeout=1.0) as answer:  # noqa: S310 - our own etcd
                if b"true" in answer.read():
                    return
        except OSError:
            assert time.monotonic() < deadline, "etcd did not come up"
        time.sleep(0.05)


def etcdctl(*words: str) -> None:
    found = shutil.which("etcdctl")
    if found is None:
        pytest.skip("needs Debian's etcd-client: make system-deps")
    done = subprocess.run([found, *words], env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_frozen_guest_does_not_run_on_after_etcd_was_restored_from_a_backup_older_than_its_lock(
    tmp_path: Path,
) -> None:
    (ports,) = free_ports(1)
    port, peer = ports.client, ports.peer
    endpoint, snapshot = f"127.0.0.1:{port}", str(tmp_path / "snapshot")
    cluster = Cluster(endpoint, f"restored-{uuid4().hex[:8]}", tmp_path, timing=SHORT_TIMING)
    counter = tmp_path / "counter"
    try:
        with etcd_on(tmp_path / "before", port=port, peer=peer):
            etcdctl("--endpoints", endpoint, "snapshot", "save", snapshot)
            guest = cluster.guest(
                "--disk", "/san/x", "--on-session-lost", "freeze", "--log-level", "info",
                script=COUNTS.format(counter), ETCDLOCK_ANSWER_SECONDS="2",
            )  # fmt: skip
        guest.says("guest_frozen")
        stood_at = counter.read_text(encoding="utf-8")
        etcdctl("snapshot", "restore", snapshot, "--data-dir", str(tmp_path / "after"),
                "--name", "default", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                "--initial-cluster", f"default=http://127.0.0.1:{peer}")  # fmt: skip
        with etcd_on(tmp_path / "after", port=port, peer=peer):
            done = guest.ended()
            assert done.status == 103
            assert "etcd_history_replaced" in done.err
            assert counter.read_text(encoding="utf-8") == stood_at, "it never ran again"
    finally:
        for running in cluster.started:
            running.end()
