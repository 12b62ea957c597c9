"""The Debian package, built once, and a machine that has it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.machine import Machine

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "deploy/debian/build"
SWITCH = ROOT / "deploy/libvirt/etcdlock-libvirt"

ETCD = """[Service]
Type=notify
ExecStart=/usr/bin/etcd --data-dir /var/lib/etcd-of-the-test --log-level error
"""
TARGET = """[Unit]
Requires=basic.target
Wants=etcd-of-the-test.service etcdlock-agent.service libvirtd.service libvirt-guests.service
After=basic.target etcd-of-the-test.service etcdlock-agent.service libvirtd.service libvirt-guests.service
AllowIsolate=yes
"""
SETTINGS = "[timing]\nhold_off_seconds = 120\n"
"""Guests survive an agent that comes back only after two minutes: what is tried here are not its seconds."""
QEMU = 'user = "root"\ngroup = "root"\nsecurity_driver = "none"\ncgroup_controllers = []\nnamespaces = []\n'


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make deb` makes it, but packed fast."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb: make system-deps")
    folder = tmp_path_factory.mktemp("package")
    built = subprocess.run([BUILD, "--quick", folder], capture_output=True, text=True, check=False, timeout=600)
    assert built.returncode == 0, built.stderr
    (made,) = folder.glob("*.deb")
    return made


@pytest.fixture(scope="session")
def newer(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a later version, which says so."""
    folder = tmp_path_factory.mktemp("newer")
    subprocess.run(["dpkg-deb", "-R", package, folder / "tree"], check=True, timeout=120)
    control, (words,) = folder / "tree/DEBIAN/control", (folder / "tree").rglob("site-packages/etcdlock/__init__.py")
    control.write_text(re.sub("^Version: .*", "Version: 99.0-1", control.read_text(), flags=re.MULTILINE))
    shutil.rmtree(words.parent / "__pycache__")  # which is not looked at again
    words.write_text(re.sub('__version__ = ".*"', '__version__ = "99.0"', words.read_text()))
    made = folder / "newer.deb"
    pack = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b"]
    subprocess.run([*pack, folder / "tree", made], check=True, timeout=120)
    return made


@pytest.fixture(scope="module")
def machine(package: Path) -> Iterator[Machine]:
    """Off, with the package."""
    machine = Machine()
    try:
        machine.put(package, "/etcdlock.deb")
        machine.run("dpkg", "-i", "/etcdlock.deb")
        yield machine
    finally:
        machine.end()


@pytest.fixture(scope="module")
def booted(machine: Machine) -> Machine:
    """Up, with libvirt, its locks with etcdlock, and an etcd of its own."""
    machine.write("/etc/systemd/system/etcd-of-the-test.service", ETCD)
    machine.write("/etc/systemd/system/test.target", TARGET)
    machine.write("/etc/etcdlock/etcdlock.toml", SETTINGS)
    machine.write("/etc/libvirt/qemu.conf", QEMU)
    machine.switch(SWITCH)
    machine.boot("test.target")
    return machine
