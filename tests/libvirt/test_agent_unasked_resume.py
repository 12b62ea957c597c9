"""A migration that fails at the very last: the source's QEMU lets its guest run on by itself, and asks nobody.

libvirt has given the guest's locks up when its vCPUs stopped, and takes them again only for a guest that it resumes
itself. So what is parked may run.
"""

from __future__ import annotations

from tests.libvirt.agents import TIMING, Cluster
from tests.libvirt.guest import Guest
from tests.libvirt.lab import Lab, SharedDisk
from tests.libvirt.libvirt_host import LibvirtHost
from tests.libvirt.migrating import migrating
from tests.libvirt.process_table import is_alive, is_stopped
from tests.libvirt.waiting import wait_until

KILOBITS_PER_SECOND = 4000
"""So slow that the guest's last pages are under way for a while after its vCPUs have stopped."""
MOST_TRIES = 10


def test_it_is_stopped_before_another_host_may_start_it(
    cluster: Cluster, clean_lab: Lab, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    pid = let_run_by_qemu_itself(cluster, clean_lab, guest, source=a, destination=b)
    clean_lab.unplug(a)
    b.define(guest)
    wait_until(lambda: b.virsh("start", guest.name, check=False).returncode == 0, what="b has taken it over")
    went_on = runs(pid)
    clean_lab.plug_in(a)
    assert not went_on


def test_it_is_stopped_when_etcd_is_away_for_too_long(
    cluster: Cluster, clean_lab: Lab, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    pid = let_run_by_qemu_itself(cluster, clean_lab, guest, source=a, destination=b)
    cluster.etcd.pause()
    wait_until(lambda: not runs(pid), what="it is stopped", within_seconds=TIMING.budget_seconds)


def test_it_can_still_be_moved(
    cluster: Cluster, clean_lab: Lab, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    let_run_by_qemu_itself(cluster, clean_lab, guest, source=a, destination=b)
    moved = a.migrate(guest, to=b)
    assert moved.returncode == 0, moved.stderr
    cluster.check_held_once(guest, by=b)
    assert cluster.runs_on(guest) == ["b"]


def let_run_by_qemu_itself(
    cluster: Cluster, lab: Lab, guest: Guest, /, *, source: LibvirtHost, destination: LibvirtHost
) -> int:
    """Migrate, and kill the destination's QEMU between the stop of the vCPUs and the last page; the source's process.

    If it was too late for that, libvirt has resumed the guest and asked for its locks, and it is tried again.
    """
    for _ in range(MOST_TRIES):
        with (
            lab.slowed(source, kilobits_per_second=KILOBITS_PER_SECOND),
            migrating(source, guest, to=destination) as moved,
        ):
            cluster.wait_until_parked(guest)
            destination.kill_qemu(guest.name)
        assert moved.result().returncode != 0
        assert cluster.runs_on(guest) == [source.name]
        if not cluster.is_held(guest):
            break
    else:
        raise AssertionError(f"libvirt resumed it each of {MOST_TRIES} times")
    pid = source.qemu_pid(guest.name)
    assert pid is not None
    return pid


def runs(pid: int) -> bool:
    """Whether the process gets to run at all."""
    return is_alive(pid) and not is_stopped(pid)
