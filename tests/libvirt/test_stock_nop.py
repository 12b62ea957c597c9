"""libvirt without locks: two hosts run one disk. So what keeps them apart elsewhere is the lock, not the lab."""

from __future__ import annotations

import pytest

from tests.libvirt.guest import Guest
from tests.libvirt.lab import Lab, SharedDisk
from tests.libvirt.libvirt_host import NOP, LibvirtHost
from tests.libvirt.process_table import is_alive
from tests.libvirt.waiting import wait_until


@pytest.fixture(scope="module", autouse=True)
def libvirt_without_locks(clean_lab: Lab) -> None:
    for host in clean_lab.hosts[:2]:
        host.start_libvirtd(NOP)


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_both_hosts_run_the_same_domain_at_once(
    a: LibvirtHost, b: LibvirtHost, disk: SharedDisk, machine: str
) -> None:
    guest = Guest((disk.path,), machine=machine)
    a.start(guest)
    b.start(guest)
    assert (a.state(guest), b.state(guest)) == ("running", "running")
    pids = {a.qemu_pid(guest.name), b.qemu_pid(guest.name)}
    assert len(pids) == 2
    assert all(pid is not None and is_alive(pid) for pid in pids)


def test_both_hosts_run_different_domains_on_one_disk(a: LibvirtHost, b: LibvirtHost, disk: SharedDisk) -> None:
    one, other = Guest((disk.path,), name="one"), Guest((disk.path,), name="other")
    a.start(one)
    b.start(other)
    assert (a.state(one), b.state(other)) == ("running", "running")


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_a_guest_migrates_there_and_back(a: LibvirtHost, b: LibvirtHost, disk: SharedDisk, machine: str) -> None:
    guest = Guest((disk.path,), machine=machine)
    a.start(guest)
    for source, destination in ((a, b), (b, a)):
        moved = source.migrate(guest, to=destination)
        assert moved.returncode == 0, moved.stderr
        assert (source.state(guest), destination.state(guest)) in (("shut off", "running"), ("", "running"))
        assert source.qemu_pid(guest.name) is None


def test_a_disk_can_be_unplugged_from_a_q35_guest(a: LibvirtHost, disk: SharedDisk) -> None:
    guest = Guest((disk.path,), machine="q35")
    a.start(guest)
    a.virsh("detach-device", guest.name, "/dev/stdin", "--live", stdin=guest.disk_xml(0))
    assert disk.path not in a.virsh("domblklist", guest.name).stdout


def test_a_guest_that_crashes_is_seen(a: LibvirtHost, disk: SharedDisk) -> None:
    guest = Guest((disk.path,))
    a.start(guest)
    a.kill_qemu(guest.name)
    wait_until(lambda: a.state(guest) == "shut off", what="libvirt has seen it")


def test_a_guest_outlives_its_libvirtd_and_is_known_to_the_next(a: LibvirtHost, disk: SharedDisk) -> None:
    guest = Guest((disk.path,))
    a.start(guest)
    pid = a.qemu_pid(guest.name)
    a.kill_libvirtd()
    a.start_libvirtd(NOP)
    assert a.state(guest) == "running"
    assert a.qemu_pid(guest.name) == pid is not None
