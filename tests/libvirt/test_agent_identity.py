"""Disks named by what they are, as agents do it unless told otherwise, under a real libvirt."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.libvirt.agents import Cluster, cluster_of
from tests.libvirt.guest import Guest
from tests.libvirt.host import OWN_IMAGES
from tests.libvirt.lab import Lab
from tests.libvirt.libvirt_host import LibvirtHost
from tests.libvirt.waiting import wait_until

FILE, ALIAS = f"{OWN_IMAGES}/guest.img", f"{OWN_IMAGES}/alias.img"


@pytest.fixture(scope="module")
def clean_cluster(clean_lab: Lab) -> Iterator[Cluster]:
    """Takes the place of the one that names disks by their paths."""
    with cluster_of(clean_lab, settings={}) as cluster:
        yield cluster


@pytest.fixture
def hosts(cluster: Cluster, a: LibvirtHost, b: LibvirtHost) -> Iterator[tuple[LibvirtHost, LibvirtHost]]:
    """Each has another file under one path, and a link to it."""
    for host in (a, b):
        host.machine.path(FILE).write_bytes(bytes(4 * 2**20))
        host.machine.path(ALIAS).symlink_to("guest.img")
    yield a, b
    for host in (a, b):
        host.clear()
        host.machine.path(ALIAS).unlink()


def named(cluster: Cluster, guest: Guest) -> tuple[str, str]:
    """The lockspace and name of a guest's only disk."""
    [resource] = cluster.lock(guest).record.resources
    return resource.lockspace, resource.name


def test_files_of_one_path_on_two_hosts_are_two_and_of_two_paths_on_one_host_are_one(
    cluster: Cluster, hosts: tuple[LibvirtHost, LibvirtHost]
) -> None:
    a, b = hosts
    one, other = Guest((), files=(FILE,), name="one"), Guest((), files=(FILE,), name="other")
    cluster.start(one, on=a)
    cluster.start(other, on=b)
    assert named(cluster, one) != named(cluster, other)
    for host, owner in ((a, "one"), (b, "other")):
        tried = host.run(
            [sys.executable, "-m", "etcdlock", "run", "--disk", ALIAS, "--", "true"], env=cluster.environment(host)
        )
        assert tried.returncode == 100
        assert f"is held by domain {owner} on host {host.name}" in tried.stderr


def test_a_copied_disk_is_locked_as_what_it_is_at_the_destination_and_back_again(
    cluster: Cluster, hosts: tuple[LibvirtHost, LibvirtHost]
) -> None:
    a, b = hosts
    guest = Guest((), files=(FILE,))
    cluster.start(guest, on=a)
    at_home = named(cluster, guest)
    for source, destination in ((a, b), (b, a)):
        moved = source.migrate(guest, "--copy-storage-all", "--migrate-disks", guest.target(0), to=destination)
        assert moved.returncode == 0, moved.stderr
        wait_until(lambda: len(cluster.lock(guest).record.resources) == 1, what="the source's disk is given up")
        assert (named(cluster, guest) == at_home) is (destination is a)
        cluster.check_held_once(guest, by=destination)
