"""A host goes from stock virtlockd to etcdlock and back by hand, as docs/LIBVIRT.md says it, with guests running."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.libvirt.agents import Cluster
from tests.libvirt.guest import Guest
from tests.libvirt.lab import SharedDisk
from tests.libvirt.libvirt_host import LOCKD, LibvirtHost
from tests.libvirt.machine import Program
from tests.libvirt.waiting import wait_until


@pytest.fixture
def under_virtlockd(cluster: Cluster, a: LibvirtHost, disk: SharedDisk) -> tuple[Guest, Program]:
    """A guest that has been started on host a under stock virtlockd, and that virtlockd; no libvirtd runs there now."""
    virtlockd = back_to_virtlockd(cluster, a)
    guest = Guest((disk.path,), name="old")
    cluster.start(guest, on=a)
    a.stop_libvirtd()
    return guest, virtlockd


@pytest.fixture
def old(cluster: Cluster, a: LibvirtHost, under_virtlockd: tuple[Guest, Program]) -> Iterator[Guest]:
    """A guest from before host a was switched to etcdlock."""
    guest, virtlockd = under_virtlockd
    virtlockd.kill()
    cluster.start_services(a)
    a.virsh("domblkstat", guest.name, guest.target(0))  # waits for libvirtd to be back at its monitor
    yield guest
    a.clear()


def back_to_virtlockd(cluster: Cluster, host: LibvirtHost) -> Program:
    """Stop what serves libvirt its locks, and give it stock virtlockd instead."""
    host.stop_libvirtd()
    cluster.agent(host).terminate()
    virtlockd = host.start_virtlockd()
    host.start_libvirtd(LOCKD)
    return virtlockd


def test_a_virtlockd_that_is_stopped_in_order_stops_its_guests_so_it_must_be_killed(
    cluster: Cluster, a: LibvirtHost, under_virtlockd: tuple[Guest, Program]
) -> None:
    guest, virtlockd = under_virtlockd
    assert a.qemu_pid(guest.name) is not None
    virtlockd.terminate()
    wait_until(lambda: a.qemu_pid(guest.name) is None, what="virtlockd has stopped the guest")
    cluster.start_services(a)


def test_a_guest_from_before_the_switch_runs_on_and_has_no_lock_that_others_would_see(
    cluster: Cluster, a: LibvirtHost, old: Guest
) -> None:
    assert a.state(old) == "running"
    assert cluster.records.locks() == {}


def test_a_guest_that_is_started_after_the_switch_is_locked(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, old: Guest, other_disk: SharedDisk
) -> None:
    new = Guest((other_disk.path,), name="new")
    cluster.start(new, on=a)
    cluster.check_held_once(new, by=a)
    assert "resource busy" in b.start(new).stderr
    assert a.state(old) == "running"


def test_a_guest_from_before_can_be_suspended_and_is_locked_when_it_is_resumed(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, old: Guest
) -> None:
    a.virsh("suspend", old.name)
    assert a.state(old) == "paused"
    a.virsh("resume", old.name)
    cluster.check_held_once(old, by=a)
    assert "is held on host a" in b.start(old).stderr


def test_a_guest_from_before_is_not_resumed_if_another_host_has_taken_its_disk_meanwhile(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, old: Guest
) -> None:
    a.virsh("suspend", old.name)
    thief = Guest(old.disks, name="thief")
    cluster.start(thief, on=b)
    refused = a.virsh("resume", old.name, check=False)
    assert "is held by domain thief on host b" in refused.stderr
    assert a.state(old) == "paused"


def test_a_guest_from_before_is_locked_when_it_has_moved_to_another_host_with_etcdlock(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, old: Guest
) -> None:
    moved = a.migrate(old, to=b)
    assert moved.returncode == 0, moved.stderr
    cluster.check_held_once(old, by=b)


def test_a_guest_from_before_ends_and_leaves_nothing(cluster: Cluster, a: LibvirtHost, old: Guest) -> None:
    a.destroy(old)
    assert a.state(old) == "shut off"
    assert cluster.records.locks() == {}


def test_back_at_virtlockd_a_guest_is_started_as_ever(
    cluster: Cluster, a: LibvirtHost, old: Guest, disk: SharedDisk
) -> None:
    a.destroy(old)
    virtlockd = back_to_virtlockd(cluster, a)
    guest = Guest((disk.path,), name="again")
    cluster.start(guest, on=a)
    assert cluster.records.locks() == {}
    a.destroy(guest)
    a.stop_libvirtd()
    virtlockd.terminate()
    cluster.start_services(a)


def test_an_agent_that_ends_while_a_guest_holds_locks_leaves_a_guard_that_stops_it(
    cluster: Cluster, a: LibvirtHost, old: Guest, other_disk: SharedDisk
) -> None:
    new = Guest((other_disk.path,), name="new")
    cluster.start(new, on=a)
    cluster.agent(a).terminate()
    wait_until(lambda: a.qemu_pid(new.name) is None, what="the guest with a lock is stopped")
    assert a.qemu_pid(old.name) is not None
