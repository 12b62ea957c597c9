"""A migration that fails leaves one host with every lock, and at most one guest that runs, wherever it fails."""

from __future__ import annotations

from dataclasses import replace

from tests.libvirt.agents import Cluster
from tests.libvirt.guest import Guest
from tests.libvirt.lab import SharedDisk
from tests.libvirt.libvirt_host import LibvirtHost
from tests.libvirt.migrating import migrating
from tests.libvirt.waiting import wait_until


def test_the_destinations_qemu_dies_before_the_switch_over(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    with migrating(a, guest, to=b) as moved:
        b.kill_qemu(guest.name)
    assert moved.result().returncode != 0
    check_it_goes_on(cluster, guest, source=a, destination=b)


def test_the_destinations_qemu_dies_at_the_switch_over_before_it_has_the_lock(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    with migrating(a, guest, to=b) as moved:
        cluster.agent(b).freeze()
        cluster.wait_until_parked(guest)
        b.kill_qemu(guest.name)
        cluster.agent(b).thaw()
    assert moved.result().returncode != 0
    check_it_goes_on(cluster, guest, source=a, destination=b)


def test_the_destinations_agent_dies_at_the_switch_over(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    with migrating(a, guest, to=b) as moved:
        cluster.agent(b).freeze()
        cluster.wait_until_parked(guest)
        cluster.agent(b).kill()
    assert moved.result().returncode != 0
    cluster.start_agent(b)
    check_it_goes_on(cluster, guest, source=a, destination=b)


def test_the_sources_agent_dies_before_the_switch_over(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    with migrating(a, guest, to=b) as moved:
        cluster.agent(a).kill()
    assert moved.result().returncode != 0
    cluster.check_held_once(guest, by=a)
    assert b.qemu_pid(guest.name) is None
    cluster.start_agent(a)
    a.virsh("resume", guest.name)
    check_it_goes_on(cluster, guest, source=a, destination=b)


def test_etcd_is_away_at_the_switch_over(cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    with migrating(a, guest, to=b) as moved:
        cluster.etcd.pause()
    assert moved.result().returncode != 0
    assert cluster.runs_on(guest) == []
    cluster.etcd.resume()
    wait_until(lambda: a.virsh("resume", guest.name, check=False).returncode == 0, what="it is resumed")
    check_it_goes_on(cluster, guest, source=a, destination=b)


def test_the_destination_is_refused_one_of_its_disks(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, c: LibvirtHost, other_disk: SharedDisk, disk: SharedDisk
) -> None:
    """There it would have another disk for its second, and that disk another domain has."""
    guest, third = Guest((disk.path,)), Guest((other_disk.path,), name="third")
    cluster.start(guest, on=a)
    cluster.start(third, on=c)
    elsewhere = a.machine.path("/run/elsewhere.xml")
    elsewhere.write_text(replace(guest, disks=third.disks).xml, encoding="ascii")
    with migrating(a, guest, "--xml", "/run/elsewhere.xml", to=b) as moved:
        pass
    assert f"disk {other_disk.path} is held by domain third on host c" in moved.result().stderr
    cluster.check_held_once(third, by=c)
    check_it_goes_on(cluster, guest, source=a, destination=b)


def check_it_goes_on(cluster: Cluster, guest: Guest, /, *, source: LibvirtHost, destination: LibvirtHost) -> None:
    """It runs on the source, held or let run by QEMU itself, and the next try moves it."""
    cluster.check_held_once(guest, by=source)
    assert cluster.runs_on(guest) == [source.name]
    assert destination.qemu_pid(guest.name) is None
    moved = source.migrate(guest, to=destination)
    assert moved.returncode == 0, moved.stderr
    cluster.check_held_once(guest, by=destination)
    assert cluster.runs_on(guest) == [destination.name]
