"""libvirt with its own virtlockd on lock files that all hosts share: what it keeps apart, and where it lets go."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager

import pytest

from tests.libvirt.contending import GIVE_BACK, KEEP, Contended, contending
from tests.libvirt.guest import Guest
from tests.libvirt.host import SHARED_LOCKS
from tests.libvirt.lab import Lab, SharedDisk
from tests.libvirt.libvirt_host import LOCKD_IN_SHARED_FILES, LibvirtHost


@pytest.fixture(scope="module", autouse=True)
def libvirt_with_virtlockd(clean_lab: Lab) -> None:
    for host in clean_lab.hosts:
        host.start_virtlockd()
        host.start_libvirtd(LOCKD_IN_SHARED_FILES)


def contender(host: LibvirtHost, disk: SharedDisk, then: str = GIVE_BACK) -> AbstractContextManager[Contended]:
    """libvirt calls a lock in the shared folder by a digest of the disk's path."""
    return contending(host, lockspace=SHARED_LOCKS, name=hashlib.sha256(disk.path.encode()).hexdigest(), then=then)


def test_the_same_domain_is_refused_on_the_second_host_until_it_has_ended_on_the_first(
    a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    a.start(guest)
    refused = b.start(guest)
    assert refused.returncode != 0
    assert "resource busy" in refused.stderr
    assert b.qemu_pid(guest.name) is None
    a.destroy(guest)
    b.start(guest)
    assert b.state(guest) == "running"


def test_another_domain_with_the_same_disk_is_refused_on_the_second_host(
    a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    a.start(Guest((disk.path,), name="one"))
    assert "resource busy" in b.start(Guest((disk.path,), name="other")).stderr


def test_a_third_host_never_gets_the_lock_of_a_guest_that_runs(
    a: LibvirtHost, c: LibvirtHost, disk: SharedDisk
) -> None:
    a.start(Guest((disk.path,)))
    with contender(c, disk) as contended:
        a.virsh("domstats", "vm1")
    assert contended.won == 0
    assert contended.tries > 0


def test_a_third_host_gets_the_lock_in_the_midst_of_a_migration(
    a: LibvirtHost, b: LibvirtHost, c: LibvirtHost, disk: SharedDisk
) -> None:
    a.start(Guest((disk.path,)))
    with contender(c, disk) as contended:
        a.migrate(Guest((disk.path,)), to=b)
    assert contended.won > 0


def test_a_third_host_that_keeps_what_it_got_in_a_migration_stops_the_guest_for_good(
    a: LibvirtHost, b: LibvirtHost, c: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    a.start(guest)
    with contender(c, disk, KEEP):
        moved = a.migrate(guest, to=b)
        resumed = a.virsh("resume", guest.name, check=False)
        states = a.state(guest), b.state(guest)
    assert "resource busy" in moved.stderr
    assert "resource busy" in resumed.stderr
    assert states == ("paused", "")
