"""libvirt with its own virtlockd on the disks themselves: on a SAN one host's locks are unknown to the others."""

from __future__ import annotations

import pytest

from tests.libvirt.contending import contending
from tests.libvirt.guest import Guest
from tests.libvirt.lab import Lab, SharedDisk
from tests.libvirt.libvirt_host import LOCKD, LibvirtHost


@pytest.fixture(scope="module", autouse=True)
def libvirt_with_virtlockd(clean_lab: Lab) -> None:
    for host in clean_lab.hosts[:2]:
        host.start_virtlockd()
        host.start_libvirtd(LOCKD)


def test_the_lock_that_one_host_sees_does_not_keep_the_other_from_the_disk(
    a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    a.start(guest)
    with contending(a, name=disk.path) as contended:
        b.start(guest)
    assert contended.won == 0
    assert (a.state(guest), b.state(guest)) == ("running", "running")
