"""A live migration hands the locks over without a gap: no third hand can come between source and destination."""

from __future__ import annotations

from itertools import pairwise

from etcdlock.model import LockState
from tests.libvirt.agents import Cluster
from tests.libvirt.contending import contending
from tests.libvirt.guest import Guest
from tests.libvirt.lab import SharedDisk
from tests.libvirt.libvirt_host import LibvirtHost
from tests.libvirt.records import ownerships

MIGRATIONS = 20


def test_in_many_migrations_a_third_host_that_grabs_for_a_disk_all_the_time_never_gets_it(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, c: LibvirtHost, other_disk: SharedDisk, disk: SharedDisk
) -> None:
    guest = Guest((disk.path, other_disk.path))
    cluster.start(guest, on=a)
    before, first = cluster.records.revision(), cluster.lock(guest).token
    journey = [(a, b), (b, a)] * (MIGRATIONS // 2)
    with contending(c, name=disk.path) as contended:
        for source, destination in journey:
            moved = source.migrate(guest, to=destination)
            assert moved.returncode == 0, moved.stderr
            assert cluster.runs_on(guest) == [destination.name]
    assert contended.won == 0
    assert contended.tries > MIGRATIONS
    events = cluster.records.history(after=before)
    assert {event.key for event in events} == {f"/etcdlock/default/domains/{guest.uuid}"}, "no disk's lock was touched"
    handovers = ownerships(events)
    parked, claimed = handovers[::2], handovers[1::2]
    assert [(host, state) for host, state, _ in parked] == [(source.name, LockState.PARKED) for source, _ in journey]
    assert [(host, state) for host, state, _ in claimed] == [(target.name, LockState.HELD) for _, target in journey]
    assert all(earlier < later for earlier, later in pairwise([first, *(token for _, _, token in claimed)]))


def test_a_guest_that_is_paused_when_it_migrates_arrives_paused_and_is_resumed_there(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    a.virsh("suspend", guest.name)
    moved = a.migrate(guest, to=b)
    assert moved.returncode == 0, moved.stderr
    assert b.state(guest) == "paused"
    b.virsh("resume", guest.name)
    cluster.check_held_once(guest, by=b)
    assert cluster.runs_on(guest) == ["b"]
