"""Disks that come and go while a guest runs are locked and free accordingly."""

from __future__ import annotations

from tests.libvirt.agents import Cluster
from tests.libvirt.guest import Guest, disk_xml
from tests.libvirt.lab import SharedDisk
from tests.libvirt.libvirt_host import LibvirtHost
from tests.libvirt.waiting import wait_until

LIVE = ("/dev/stdin", "--live")


def locked(cluster: Cluster, guest: Guest) -> set[str]:
    return {resource.path for resource in cluster.lock(guest).record.resources}


def test_a_disk_is_plugged_into_a_guest_and_out_again_and_goes_to_another_domain_elsewhere(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, other_disk: SharedDisk, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,), machine="q35")
    other = Guest((), machine="q35", name="other")
    second = disk_xml(other_disk.path, target="sdb")
    cluster.start(guest, on=a)
    cluster.start(other, on=b)
    a.virsh("attach-device", guest.name, *LIVE, stdin=second)
    assert locked(cluster, guest) == {disk.path, other_disk.path}
    refused = b.virsh("attach-device", other.name, *LIVE, stdin=second, check=False)
    assert f"disk {other_disk.path} is held by domain {guest.name} on host a" in refused.stderr
    a.virsh("detach-device", guest.name, *LIVE, stdin=second)
    wait_until(lambda: locked(cluster, guest) == {disk.path}, what="the disk is given back")
    b.virsh("attach-device", other.name, *LIVE, stdin=second)
    assert locked(cluster, other) == {other_disk.path}
    assert cluster.runs_on(guest) == ["a"]


def test_a_disk_plugged_into_a_suspended_guest_is_locked_and_the_guest_stays_parked(
    cluster: Cluster, a: LibvirtHost, other_disk: SharedDisk, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,), machine="q35")
    cluster.start(guest, on=a)
    a.virsh("suspend", guest.name)
    cluster.wait_until_parked(guest)
    a.virsh("attach-device", guest.name, *LIVE, stdin=disk_xml(other_disk.path, target="sdb"))
    assert locked(cluster, guest) == {disk.path, other_disk.path}
    assert not cluster.is_held(guest)
    a.virsh("resume", guest.name)
    assert cluster.is_held(guest)


def test_a_disk_plugged_in_goes_along_when_the_guest_migrates(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, other_disk: SharedDisk, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,), machine="q35")
    cluster.start(guest, on=a)
    a.virsh("attach-device", guest.name, *LIVE, stdin=disk_xml(other_disk.path, target="sdb"))
    moved = a.migrate(guest, to=b)
    assert moved.returncode == 0, moved.stderr
    assert cluster.lock(guest).record.owner.host == "b"
    assert locked(cluster, guest) == {disk.path, other_disk.path}
    assert cluster.runs_on(guest) == ["b"]


def test_a_snapshots_overlay_is_locked_beside_the_disk_below_it_and_given_back_when_it_is_committed(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest, overlay = Guest((disk.path,)), "/var/lib/libvirt/overlay.qcow2"
    cluster.start(guest, on=a)
    spec = f"{guest.target(0)},snapshot=external,file={overlay}"
    a.virsh("snapshot-create-as", guest.name, "now", "--disk-only", "--no-metadata", "--diskspec", spec)
    assert locked(cluster, guest) == {disk.path, overlay}
    assert "resource busy" in b.start(Guest((disk.path,), name="other")).stderr
    a.virsh("suspend", guest.name)
    cluster.wait_until_parked(guest)
    a.virsh("resume", guest.name)
    assert locked(cluster, guest) == {disk.path, overlay}
    a.virsh("blockcommit", guest.name, guest.target(0), "--active", "--pivot", "--wait")
    wait_until(lambda: locked(cluster, guest) == {disk.path}, what="the overlay is given back")
    assert cluster.is_held(guest)
    assert cluster.runs_on(guest) == ["a"]


def test_a_shareable_disk_goes_to_guests_on_several_hosts_but_not_to_one_that_wants_it_alone(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, c: LibvirtHost, disk: SharedDisk
) -> None:
    shared = disk_xml(disk.path, target="sdb", more=("<shareable/>",))
    guests = {a: Guest((), machine="q35", name="one"), b: Guest((), machine="q35", name="two")}
    for host, guest in guests.items():
        cluster.start(guest, on=host)
        host.virsh("attach-device", guest.name, *LIVE, stdin=shared)
    assert [locked(cluster, guest) for guest in guests.values()] == [{disk.path}, {disk.path}]
    refused = c.start(Guest((disk.path,), name="alone"))
    assert f"disk {disk.path} is held by domain one on host a" in refused.stderr
    assert "domain two on host b" in refused.stderr
