"""Whatever becomes of a guest, its locks follow: they are parked, taken again, or free at once."""

from __future__ import annotations

import pytest

from tests.libvirt.agents import Cluster
from tests.libvirt.guest import Guest
from tests.libvirt.lab import SharedDisk
from tests.libvirt.libvirt_host import LibvirtHost
from tests.libvirt.process_table import is_alive
from tests.libvirt.waiting import wait_until

FREE_WITHIN_SECONDS = 1.0
SAVED = "/var/lib/libvirt/saved"


def test_a_guest_is_suspended_and_resumed_many_times_and_its_locks_keep_step(
    cluster: Cluster, a: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    token = cluster.lock(guest).token
    for _ in range(5):
        a.virsh("suspend", guest.name)
        a.virsh("resume", guest.name)
        assert cluster.is_held(guest)
    assert cluster.runs_on(guest) == ["a"]
    assert cluster.lock(guest).token == token


def test_a_guest_that_is_saved_holds_nothing_until_it_is_restored(
    cluster: Cluster, a: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    a.virsh("save", guest.name, SAVED)
    cluster.wait_until_free()
    a.virsh("restore", SAVED)
    cluster.check_held_once(guest, by=a)
    assert cluster.runs_on(guest) == ["a"]


def test_a_managed_save_holds_nothing_and_the_next_start_goes_on_with_it(
    cluster: Cluster, a: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    a.virsh("managedsave", guest.name)
    cluster.wait_until_free()
    assert a.virsh("dominfo", guest.name).stdout.split("Managed save:")[1].split()[0] == "yes"
    a.virsh("start", guest.name)
    assert a.virsh("dominfo", guest.name).stdout.split("Managed save:")[1].split()[0] == "no"
    cluster.check_held_once(guest, by=a)
    assert cluster.is_held(guest)


def test_a_saved_guest_is_not_restored_while_its_disk_is_another_domains(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    a.virsh("save", guest.name, SAVED)
    cluster.wait_until_free()
    cluster.start(Guest((disk.path,), name="other"), on=b)
    refused = a.virsh("restore", SAVED, check=False)
    assert f"disk {disk.path} is held by domain other on host b" in refused.stderr
    assert list(cluster.records.locks()) == ["other"]
    b.virsh("destroy", "other")
    cluster.wait_until_free()
    a.virsh("restore", SAVED)
    cluster.check_held_once(guest, by=a)


@pytest.mark.parametrize("suspended", [False, True])
def test_the_locks_of_a_guest_that_crashes_are_free_within_a_second(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk, suspended: bool
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    if suspended:
        a.virsh("suspend", guest.name)
        cluster.wait_until_parked(guest)
    a.kill_qemu(guest.name)
    assert cluster.wait_until_free() < FREE_WITHIN_SECONDS
    cluster.start(guest, on=b)


def test_a_guest_that_is_killed_when_its_agent_cannot_reach_etcd_is_given_back_later(
    cluster: Cluster, a: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    pid = a.qemu_pid(guest.name)
    assert pid is not None
    cluster.etcd.pause()
    a.destroy(guest)
    wait_until(lambda: not is_alive(pid), what="it is gone")
    cluster.etcd.resume()
    cluster.wait_until_free()


def test_a_guest_started_again_right_after_its_end_is_not_refused_for_its_own_old_locks(
    cluster: Cluster, a: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    for _ in range(3):
        cluster.start(guest, on=a)
        a.destroy(guest)
    cluster.wait_until_free()


def test_a_saved_guest_is_not_restored_while_it_is_suspended_on_another_host(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    a.virsh("save", guest.name, SAVED)
    cluster.wait_until_free()
    cluster.start(guest, on=a)
    a.virsh("suspend", guest.name)
    cluster.wait_until_parked(guest)
    b.machine.path(SAVED).write_bytes(a.machine.path(SAVED).read_bytes())
    refused = b.virsh("restore", SAVED, check=False)
    assert f"domain {guest.name} is held on host a since" in refused.stderr
    cluster.check_held_once(guest, by=a)
    a.virsh("resume", guest.name)
    assert cluster.runs_on(guest) == ["a"]
