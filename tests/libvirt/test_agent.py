"""An unmodified libvirt takes its locks in etcd, and says in virsh who holds what."""

from __future__ import annotations

from tests.libvirt.agents import Cluster
from tests.libvirt.guest import Guest
from tests.libvirt.lab import SharedDisk
from tests.libvirt.libvirt_host import LibvirtHost


def test_a_guest_holds_its_domain_and_all_its_disks_while_it_runs_and_nothing_afterwards(
    cluster: Cluster, a: LibvirtHost, other_disk: SharedDisk, disk: SharedDisk
) -> None:
    guest = Guest((disk.path, other_disk.path))
    cluster.start(guest, on=a)
    cluster.check_held_once(guest, by=a)
    a.destroy(guest)
    cluster.wait_until_free()


def test_the_same_domain_is_refused_on_another_host_until_it_has_ended_and_virsh_says_who_has_it(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    refused = b.start(guest)
    assert f"resource busy: domain {guest.name} is held on host a since" in refused.stderr
    assert b.qemu_pid(guest.name) is None
    cluster.check_held_once(guest, by=a)
    a.destroy(guest)
    cluster.wait_until_free()
    cluster.start(guest, on=b)
    cluster.check_held_once(guest, by=b)


def test_another_domain_with_the_same_disk_is_refused_on_another_host_and_virsh_says_who_has_it(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest, other = Guest((disk.path,)), Guest((disk.path,), name="other")
    cluster.start(guest, on=a)
    refused = b.start(other)
    assert f"resource busy: disk {disk.path} is held by domain {guest.name} on host a since" in refused.stderr
    assert b.qemu_pid(other.name) is None
    assert list(cluster.records.locks()) == [guest.name]


def test_a_guest_that_is_refused_one_of_its_disks_leaves_no_lock_on_the_others(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, other_disk: SharedDisk, disk: SharedDisk
) -> None:
    guest, other = Guest((disk.path,)), Guest((other_disk.path, disk.path), name="other")
    cluster.start(guest, on=a)
    assert "resource busy" in b.start(other).stderr
    a.destroy(guest)
    cluster.wait_until_free()


def test_a_suspended_guest_is_refused_elsewhere_with_the_word_that_it_is_suspended(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    a.virsh("suspend", guest.name)
    cluster.wait_until_parked(guest)
    assert "suspended there" in b.start(guest).stderr
    cluster.check_held_once(guest, by=a)
