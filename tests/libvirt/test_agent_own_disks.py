"""Disks on a host's own file system: no other host is in their way, and copied disks migrate."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.libvirt.agents import Cluster
from tests.libvirt.guest import Guest
from tests.libvirt.host import OWN_IMAGES
from tests.libvirt.lab import SharedDisk
from tests.libvirt.libvirt_host import LibvirtHost
from tests.libvirt.migrating import migrating
from tests.libvirt.waiting import wait_until

FILE = f"{OWN_IMAGES}/guest.img"
FILE_BYTES = 4 * 2**20
WRITTEN = b"written on a"
COPY = ("--copy-storage-all", "--migrate-disks")


@pytest.fixture(autouse=True)
def file_of_each(cluster: Cluster, a: LibvirtHost, b: LibvirtHost) -> dict[str, Path]:
    """Under one path another file on each host."""
    files = {host.name: host.machine.path(FILE) for host in (a, b)}
    for host, file in files.items():
        file.write_bytes((WRITTEN if host == "a" else b"").ljust(FILE_BYTES, b"\0"))
    return files


def locked(cluster: Cluster, guest: Guest) -> set[tuple[str, str]]:
    return {(each.lockspace, each.name) for each in cluster.lock(guest).record.resources}


def wait_until_locked(cluster: Cluster, guest: Guest, names: set[tuple[str, str]]) -> None:
    """What stays behind is given up when the guest runs at its destination."""
    wait_until(lambda: locked(cluster, guest) == names, what=f"{guest.name} has {names} and nothing else")


def test_two_hosts_run_guests_on_files_of_their_own_with_one_path(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    for host, guest in ((a, Guest((), files=(FILE,), name="one")), (b, Guest((), files=(FILE,), name="other"))):
        cluster.start(guest, on=host)
        assert locked(cluster, guest) == {(f"host/{host.name}", FILE)}
        assert cluster.runs_on(guest) == [host.name]


def test_a_guest_migrates_with_a_copy_of_its_disk_and_the_copied_one_is_free_for_others(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk, file_of_each: dict[str, Path]
) -> None:
    guest, other = Guest((disk.path,), files=(FILE,)), Guest((), files=(FILE,), name="other")
    cluster.start(guest, on=a)
    moved = a.migrate(guest, *COPY, guest.target(1), to=b)
    assert moved.returncode == 0, moved.stderr
    assert cluster.runs_on(guest) == ["b"]
    assert file_of_each["b"].read_bytes().startswith(WRITTEN)
    wait_until_locked(cluster, guest, {("path", disk.path), ("host/b", FILE)})
    cluster.check_held_once(guest, by=b)
    cluster.start(other, on=a)
    cluster.check_held_once(other, by=a)
    assert locked(cluster, other) == {("host/a", FILE)}
    assert cluster.runs_on(guest) == ["b"]


def test_a_guest_whose_only_disk_is_copied_goes_there_and_back(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((), files=(FILE,))
    cluster.start(guest, on=a)
    for source, destination in ((a, b), (b, a)):
        moved = source.migrate(guest, *COPY, guest.target(0), to=destination)
        assert moved.returncode == 0, moved.stderr
        wait_until_locked(cluster, guest, {(f"host/{destination.name}", FILE)})
        cluster.check_held_once(guest, by=destination)


def test_a_copying_migration_that_fails_leaves_the_source_all_it_had(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,), files=(FILE,))
    cluster.start(guest, on=a)
    had = locked(cluster, guest)
    with migrating(a, guest, *COPY, guest.target(1), to=b) as moved:
        cluster.agent(b).freeze()
        cluster.wait_until_parked(guest)
        b.kill_qemu(guest.name)
        cluster.agent(b).thaw()
    assert moved.result().returncode != 0
    assert locked(cluster, guest) == had == {("path", disk.path), ("host/a", FILE)}
    cluster.check_held_once(guest, by=a)
    assert cluster.runs_on(guest) == ["a"]
