"""The main job on real input: a libvirt domain XML and a real QEMU under `etcdlock run`."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from tests.e2e.machines import PATIENCE_SECONDS, SHORT_TIMING, Host, Machine, Monitor

NUMBERS = itertools.count()


@pytest.fixture
def etcd() -> Iterator[EmbeddedEtcd]:
    """An etcd of the test's own: it is stopped and goes on."""
    with EmbeddedEtcd() as etcd:
        yield etcd


@pytest.fixture
def hosts(etcd: EmbeddedEtcd) -> Iterator[tuple[Host, Host]]:
    """Two hosts that share storage and etcd."""
    a, b = (Host(name, endpoint=etcd.endpoints[0], settings=SHORT_TIMING) for name in "ab")
    yield a, b
    a.end()
    b.end()


def start_qemu(host: Host, machine: Machine, *options: str) -> tuple[subprocess.Popen[str], Monitor]:
    """A QEMU that runs, and its monitor."""
    path = machine.folder / f"qmp{next(NUMBERS)}"
    process = host.start(*options, "--domain", str(machine.xml), command=machine.command(monitor=path))
    monitor = Monitor(path, process=process)
    assert monitor.do("query-status")["status"] == "running"
    return process, monitor


def test_a_running_qemu_keeps_its_disk_from_every_other_host_until_it_ends(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    a, b = hosts
    machine = Machine.make(tmp_path)
    qemu, monitor = start_qemu(a, machine)
    with monitor:
        same_domain = b.do("run", "--domain", str(machine.xml), "--", "true")
        assert same_domain.returncode == 100
        assert "domain vm1 is held on host a" in same_domain.stderr
        same_disk = b.do("run", "--disk", str(machine.disk), "--", "true")
        assert same_disk.returncode == 100
        assert f"disk {machine.disk} is held by domain vm1 on host a" in same_disk.stderr
        monitor.do("quit")
    out, err = qemu.communicate(timeout=PATIENCE_SECONDS)
    assert (qemu.returncode, out) == (0, "")
    assert "etcdlock" not in err, "of a guest that ends by itself there is nothing to say"
    assert b.do("run", "--domain", str(machine.xml), "--", "true").returncode == 0
    assert json.loads(b.do("status", "--json").stdout)["locks"] == []


def test_a_qemu_cut_off_from_etcd_is_dead_before_another_host_may_have_its_disk(
    etcd: EmbeddedEtcd, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    a, b = hosts
    machine = Machine.make(tmp_path)
    first, monitor = start_qemu(a, machine)
    monitor.close()
    etcd.pause()
    try:
        _, err = first.communicate(timeout=PATIENCE_SECONDS)
    finally:
        etcd.resume()
    assert first.returncode == 103, err
    assert "domain vm1 was stopped" in err

    second, monitor = start_qemu(b, machine, "--wait", str(PATIENCE_SECONDS))
    with monitor:
        monitor.do("quit")
    assert second.wait(timeout=PATIENCE_SECONDS) == 0


def test_a_qemu_whose_etcdlock_is_killed_is_dead_before_another_host_may_have_its_disk(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    a, b = hosts
    machine = Machine.make(tmp_path)
    first, monitor = start_qemu(a, machine)
    pid = monitor.pid
    monitor.close()
    assert f"-uuid\0{machine.uuid}" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
    first.kill()

    is_gone = ("test", "!", "-e", f"/proc/{pid}")
    taken = b.do("run", "--wait", str(PATIENCE_SECONDS), "--domain", str(machine.xml), "--", *is_gone)
    assert taken.returncode == 0, taken.stderr
