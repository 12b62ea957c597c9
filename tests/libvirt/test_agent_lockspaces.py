"""What libvirt names otherwise than by a path: disks by digests, where it is told so, and explicit leases."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tests.libvirt.agents import Cluster
from tests.libvirt.guest import LEASES, LOCKSPACE, Guest
from tests.libvirt.lab import SharedDisk
from tests.libvirt.libvirt_host import LOCKD, LOCKD_IN_SHARED_FILES, LibvirtHost


@pytest.fixture
def digests(cluster: Cluster, a: LibvirtHost, b: LibvirtHost) -> Iterator[None]:
    """On these hosts libvirt has a lockspace for files, where a disk is known by the digest of its path."""
    for host in (a, b):
        host.stop_libvirtd()
        host.start_libvirtd(LOCKD_IN_SHARED_FILES)
    yield
    for host in (a, b):
        host.clear()
        host.stop_libvirtd()
        host.start_libvirtd(LOCKD)


@pytest.mark.usefixtures("digests")
def test_a_disk_that_is_known_by_a_digest_is_locked_parked_moved_and_given_back(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest, other = Guest((disk.path,)), Guest((disk.path,), name="other")
    cluster.start(guest, on=a)
    assert [each.name for each in cluster.lock(guest).record.resources] == [
        hashlib.sha256(disk.path.encode()).hexdigest()
    ]
    refused = b.start(other)
    assert refused.returncode != 0
    assert "is held by domain vm1 on host a" in refused.stderr
    a.virsh("suspend", guest.name)
    cluster.wait_until_parked(guest)
    a.virsh("resume", guest.name)
    assert cluster.is_held(guest)
    moved = a.migrate(guest, to=b)
    assert moved.returncode == 0, moved.stderr
    assert (cluster.lock(guest).record.owner.host, cluster.runs_on(guest)) == ("b", ["b"])
    b.destroy(guest)
    cluster.wait_until_free()


def test_a_lease_goes_to_one_domain_in_the_cluster_though_its_disks_are_free(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk, other_disk: SharedDisk
) -> None:
    guest, other = Guest((disk.path,), leases=("one",)), Guest((other_disk.path,), name="other", leases=("one",))
    cluster.start(guest, on=a)
    held = {(each.lockspace, each.name) for each in cluster.lock(guest).record.resources}
    assert held == {("path", disk.path), (f"{LEASES}/{LOCKSPACE}", "one")}
    refused = b.start(other)
    assert refused.returncode != 0
    assert "is held by domain vm1 on host a" in refused.stderr
    moved = a.migrate(guest, to=b)
    assert moved.returncode == 0, moved.stderr
    assert cluster.lock(guest).record.owner.host == "b"
    b.destroy(guest)
    cluster.wait_until_free()
    cluster.start(other, on=a)
