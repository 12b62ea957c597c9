"""The lab for all tests here, and what each test gets of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.libvirt.agents import Cluster, cluster_of
from tests.libvirt.alone import ANOTHER_LABS_SECONDS, alone
from tests.libvirt.lab import Lab, SharedDisk
from tests.libvirt.libvirt_host import LibvirtHost

_PROGRAMS = (
    *("libvirtd", "virtlockd", "virsh", "qemu-system-x86_64"),
    *("ip", "losetup", "mount", "nsenter", "setpriv", "tc", "unshare"),
)
_LAB_SECONDS = 120
"""For a test that makes a lab, when no other is in the way."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that wants a lab may have to wait for the end of another one."""
    first = next((item for item in items if "lab" in getattr(item, "fixturenames", ())), None)
    if first is not None:
        first.add_marker(pytest.mark.timeout(ANOTHER_LABS_SECONDS + _LAB_SECONDS))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hosts a, b and c, that are on; libvirtd runs on none of them."""
    _need_what_a_lab_needs()
    with alone(), Lab(tmp_path_factory.mktemp("lab"), host_names="abc") as lab:
        yield lab


@pytest.fixture(scope="module")
def clean_lab(lab: Lab) -> Iterator[Lab]:
    """The same lab for one module: whatever its tests start on the hosts is gone for the next, as by a reset."""
    yield lab
    for host in lab.hosts:
        lab.reinstall(host)


@pytest.fixture(scope="module")
def clean_cluster(clean_lab: Lab) -> Iterator[Cluster]:
    """For one module: an etcd, etcdlock's agent on each host, and libvirtd."""
    with cluster_of(clean_lab) as cluster:
        yield cluster


@pytest.fixture
def cluster(clean_cluster: Cluster) -> Iterator[Cluster]:
    """The same; asked for before a disk, it has no lock any more when the test's domains are gone."""
    yield clean_cluster
    clean_cluster.heal()
    clean_cluster.wait_until_free()


@pytest.fixture
def other_disk(clean_lab: Lab) -> Iterator[SharedDisk]:
    """One more; asked for before `disk`, it outlives the domains."""
    with clean_lab.disk() as disk:
        yield disk


@pytest.fixture
def disk(clean_lab: Lab) -> Iterator[SharedDisk]:
    """A disk that all hosts see. No domain outlives the test."""
    with clean_lab.disk() as disk:
        yield disk
        for host in clean_lab.hosts:
            host.clear()


@pytest.fixture
def a(clean_lab: Lab) -> LibvirtHost:
    return clean_lab.hosts[0]


@pytest.fixture
def b(clean_lab: Lab) -> LibvirtHost:
    return clean_lab.hosts[1]


@pytest.fixture
def c(clean_lab: Lab) -> LibvirtHost:
    return clean_lab.hosts[2]


def _need_what_a_lab_needs() -> None:
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces and loop devices")
    namespaces = subprocess.run(["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "true"], check=False)
    if namespaces.returncode:
        pytest.skip("needs the right to make namespaces")
    if not os.path.exists("/dev/loop-control"):  # noqa: PTH110
        pytest.skip("needs loop devices")
