"""etcd has three members, and some of them die, freeze or are restarted: guests run on, and one host has each lock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.contract.etcds import metrics
from tests.libvirt.agents import TIMING, Cluster, cluster_of
from tests.libvirt.guest import Guest
from tests.libvirt.lab import Lab, SharedDisk
from tests.libvirt.libvirt_host import LibvirtHost
from tests.libvirt.migrating import migrating
from tests.libvirt.waiting import wait_until

MEMBERS = 3
Mishap = Callable[[Cluster], None]


@pytest.fixture(scope="module")
def clean_cluster(clean_lab: Lab) -> Iterator[Cluster]:
    """The same as elsewhere, but for etcd's members."""
    with cluster_of(clean_lab, etcd_members=MEMBERS) as cluster:
        yield cluster


def all_members_are_restarted_one_by_one(cluster: Cluster) -> None:
    for member in range(MEMBERS):
        cluster.etcd.restart(member)


def the_leader_is_frozen_for_longer_than_a_lease_lives(cluster: Cluster) -> None:
    """It believes to be the leader when it goes on."""
    (leader,) = leaders(cluster)
    cluster.etcd.pause(leader)
    time.sleep(TIMING.ttl_seconds + 1.5)
    cluster.etcd.resume(leader)
    wait_until(lambda: leaders(cluster) not in ([], [leader]), what="another member leads")


@pytest.mark.parametrize(
    "happens", [all_members_are_restarted_one_by_one, the_leader_is_frozen_for_longer_than_a_lease_lives]
)
def test_guests_on_two_hosts_run_on_and_can_be_suspended_and_resumed_and_moved_when(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, other_disk: SharedDisk, disk: SharedDisk, happens: Mishap
) -> None:
    guests = {a: Guest((disk.path,), name="one"), b: Guest((other_disk.path,), name="other")}
    for host, guest in guests.items():
        cluster.start(guest, on=host)
    before = [(host.qemu_pid(guest.name), cluster.lock(guest).token) for host, guest in guests.items()]
    begun = time.monotonic()
    happens(cluster)
    for guest in guests.values():
        wait_until_carried_over(cluster, guest)
    deadline = begun + TIMING.stop_after_seconds + 1  # what could not be proven since it began is killed by then
    time.sleep(max(deadline - time.monotonic(), 0))
    assert [(host.qemu_pid(guest.name), cluster.lock(guest).token) for host, guest in guests.items()] == before
    for (host, guest), other in zip(guests.items(), (b, a), strict=True):
        check_it_can_be_suspended_and_resumed_and_moved(cluster, guest, host, other)


def wait_until_carried_over(cluster: Cluster, guest: Guest) -> None:
    wait_until(
        lambda: cluster.lock(guest).record.owner in cluster.records.sessions(),
        what=f"the lock of {guest.name} names a session that lives",
    )


def check_it_can_be_suspended_and_resumed_and_moved(
    cluster: Cluster, guest: Guest, host: LibvirtHost, other: LibvirtHost
) -> None:
    assert cluster.runs_on(guest) == [host.name]
    host.virsh("suspend", guest.name)
    cluster.wait_until_parked(guest)
    host.virsh("resume", guest.name)
    assert cluster.is_held(guest)
    moved = host.migrate(guest, to=other)
    assert moved.returncode == 0, moved.stderr
    cluster.check_held_once(guest, by=other)
    assert cluster.runs_on(guest) == [other.name]


def test_the_leader_is_killed_in_the_midst_of_a_migration_and_one_host_has_the_guest_afterwards(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    (leader,) = leaders(cluster)
    with migrating(a, guest, to=b) as moved:
        cluster.etcd.kill(leader)
    owner = b if moved.result().returncode == 0 else a
    other = a if owner is b else b
    cluster.etcd.restart(leader)
    cluster.check_held_once(guest, by=owner)
    assert other.qemu_pid(guest.name) is None
    wait_until(lambda: runs_again(guest, on=owner), what="it runs where it is held")
    check_it_can_be_suspended_and_resumed_and_moved(cluster, guest, owner, other)


def runs_again(guest: Guest, /, *, on: LibvirtHost) -> bool:
    """libvirt leaves a guest paused that could not be locked in time; then it is for people to resume it."""
    return on.state(guest) == "running" or on.virsh("resume", guest.name, check=False).returncode == 0


def leaders(cluster: Cluster) -> list[int]:
    """The members that say that they lead; all of them answer."""
    return [
        member
        for member, endpoint in enumerate(cluster.etcd.endpoints)
        if metrics(endpoint)["etcd_server_is_leader"] == 1
    ]
