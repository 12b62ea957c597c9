"""Guests on one template, over a real etcd and with images of QEMU's own making."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from tests.cli.hosts import Cluster

SHARED = {"ETCDLOCK_BACKING_CHAIN": "shared"}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A template, a layer on it, and two guests' own layers on that."""
    if not shutil.which("qemu-img"):
        pytest.skip("needs qemu-img: make system-deps")
    make(tmp_path, "template.raw", "-f", "raw")
    make(tmp_path, "site.qcow2", "-f", "qcow2", "-b", "template.raw", "-F", "raw")
    for guest in ("one", "two"):
        make(tmp_path, f"{guest}.qcow2", "-f", "qcow2", "-b", "site.qcow2", "-F", "qcow2")
    return tmp_path


def make(folder: Path, name: str, *options: str) -> None:
    size = ["1M"] if "-b" not in options else []
    subprocess.run(["qemu-img", "create", "-q", *options, name, *size], cwd=folder, check=True, timeout=30)


def xml(folder: Path, disk: str) -> str:
    file = folder / f"{disk}.xml"
    file.write_text(
        f"<domain><name>{disk}</name><uuid>{uuid4()}</uuid><devices><disk type='file'><driver type='qcow2'/>"
        f"<source file='{folder}/{disk}.qcow2'/><target dev='vda'/></disk></devices></domain>",
        encoding="utf-8",
    )
    return str(file)


def test_guests_share_a_template_that_nobody_may_write_meanwhile(cluster: Cluster, images: Path) -> None:
    guests = [
        cluster.guest("--domain", xml(images, "one"), **SHARED),
        cluster.guest("--disk", f"{images}/two.qcow2:qcow2", host="b", **SHARED),
    ]
    held = [item for lock in cluster.survey().locks for item in lock.stored.record.resources]
    assert sorted((item.path.rpartition("/")[2], str(item.mode)) for item in held) == [
        ("one.qcow2", "exclusive"), ("site.qcow2", "shared"), ("site.qcow2", "shared"),
        ("template.raw", "shared"), ("template.raw", "shared"), ("two.qcow2", "exclusive"),
    ]  # fmt: skip
    for layer in ("template.raw", "site.qcow2"):
        refused = cluster.do("run", "--disk", f"{images}/{layer}", "--", "echo", "never", host="b", **SHARED)
        assert (refused.status, refused.out) == (100, ""), layer
    for guest in guests:
        guest.send(signal.SIGTERM)
        guest.ended()


def test_no_guest_starts_on_a_template_that_is_written(cluster: Cluster, images: Path) -> None:
    writer = cluster.guest("--disk", f"{images}/template.raw", **SHARED)
    refused = cluster.do("run", "--domain", xml(images, "one"), "--", "echo", "never", host="b", **SHARED)
    assert (refused.status, refused.out) == (100, "")
    writer.send(signal.SIGTERM)
    writer.ended()


def test_a_host_that_locks_no_chains_is_refused_with_both_values(cluster: Cluster, images: Path) -> None:
    guest = cluster.guest("--disk", f"{images}/one.qcow2:qcow2", **SHARED)
    refused = cluster.do("run", "--disk", f"{images}/two.qcow2:qcow2", "--", "echo", "never", host="b")
    assert refused.status == 104
    assert "backing_chain: here none, cluster shared" in refused.err
    guest.send(signal.SIGTERM)
    guest.ended()


def test_a_chain_that_cannot_be_read_refuses_the_guest(cluster: Cluster, images: Path) -> None:
    (images / "site.qcow2").unlink()
    refused = cluster.do("run", "--domain", xml(images, "one"), "--", "echo", "never", **SHARED)
    assert (refused.status, refused.out) == (104, "")
    assert f"'{images}/site.qcow2' could not be read: No such file or directory" in refused.err
