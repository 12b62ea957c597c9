"""etcd is away: nothing new starts, nothing hangs, and what cannot be proven any more is stopped in time."""

from __future__ import annotations

import time

from tests.libvirt.agents import ACQUIRE_SECONDS, TIMING, Cluster
from tests.libvirt.guest import Guest
from tests.libvirt.lab import Lab, SharedDisk
from tests.libvirt.libvirt_host import LibvirtHost
from tests.libvirt.process_table import is_alive, is_stopped
from tests.libvirt.waiting import wait_until

LIBVIRTS_SECONDS = 3.0
"""To make a QEMU and end it again, on a machine that has other things to do."""
AT_ONCE_SECONDS = 1.0


def test_a_start_fails_within_the_bound_and_virsh_says_that_etcd_does_not_answer(
    cluster: Cluster, a: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.etcd.pause()
    started = time.monotonic()
    refused = a.start(guest)
    assert time.monotonic() - started < ACQUIRE_SECONDS + LIBVIRTS_SECONDS
    assert refused.returncode != 0
    assert "etcd" in refused.stderr
    assert a.qemu_pid(guest.name) is None
    cluster.etcd.resume()
    wait_until(lambda: a.virsh("start", guest.name, check=False).returncode == 0, what="it starts")
    cluster.check_held_once(guest, by=a)


def test_a_suspend_is_not_delayed_and_is_told_etcd_when_it_is_back(
    cluster: Cluster, a: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    cluster.etcd.pause()
    started = time.monotonic()
    a.virsh("suspend", guest.name)
    assert time.monotonic() - started < AT_ONCE_SECONDS
    cluster.etcd.resume()
    cluster.wait_until_parked(guest)
    wait_until(lambda: a.virsh("resume", guest.name, check=False).returncode == 0, what="it is resumed")
    cluster.check_held_once(guest, by=a)
    assert cluster.runs_on(guest) == ["a"]


def test_a_guest_runs_on_through_an_outage_that_costs_its_host_the_session(
    cluster: Cluster, a: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    pid, before = a.qemu_pid(guest.name), cluster.lock(guest)
    cluster.etcd.pause()
    time.sleep(TIMING.ttl_seconds + 0.5)
    cluster.etcd.resume()
    wait_until(lambda: cluster.lock(guest).record.owner in cluster.records.sessions(), what="it names a living session")
    assert (a.qemu_pid(guest.name), cluster.runs_on(guest)) == (pid, ["a"])
    assert cluster.lock(guest).token == before.token


def test_guests_are_stopped_when_the_outage_lasts_and_can_be_started_anew_or_go_on_when_it_ends(
    cluster: Cluster, a: LibvirtHost, other_disk: SharedDisk, disk: SharedDisk
) -> None:
    guest, frozen = Guest((disk.path,)), Guest((other_disk.path,), name="vm2", on_lockfailure="pause")
    for each in (guest, frozen):
        cluster.start(each, on=a)
    pid, frozen_pid = a.qemu_pid(guest.name), a.qemu_pid(frozen.name)
    assert pid is not None
    assert frozen_pid is not None
    cluster.etcd.pause()
    ran_on = wait_until(lambda: not is_alive(pid), what="it is stopped", within_seconds=TIMING.budget_seconds)
    assert ran_on > TIMING.stop_after_seconds - TIMING.suspect_after_seconds
    wait_until(lambda: is_stopped(frozen_pid), what="the other stands, by its own choice", within_seconds=1.0)
    wait_until(lambda: a.state(guest) == "shut off", what="libvirt has seen it")
    cluster.etcd.resume()
    wait_until(lambda: not is_stopped(frozen_pid), what="it goes on")
    assert is_alive(frozen_pid)
    wait_until(lambda: a.virsh("start", guest.name, check=False).returncode == 0, what="it starts")
    cluster.check_held_once(guest, by=a)


def test_a_host_that_is_cut_off_has_stopped_its_guest_before_another_may_start_it(
    cluster: Cluster, clean_lab: Lab, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    pid, token = a.qemu_pid(guest.name), cluster.lock(guest).token
    assert pid is not None
    clean_lab.unplug(a)
    b.define(guest)
    wait_until(lambda: b.virsh("start", guest.name, check=False).returncode == 0, what="b has taken it over")
    assert not is_alive(pid)
    clean_lab.plug_in(a)
    cluster.check_held_once(guest, by=b)
    assert cluster.lock(guest).token > token


def test_what_a_host_held_that_lost_its_power_goes_to_another_host_and_stays_there(
    cluster: Cluster, clean_lab: Lab, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    clean_lab.power_off(a)
    b.define(guest)
    wait_until(lambda: b.virsh("start", guest.name, check=False).returncode == 0, what="b has taken it over")
    clean_lab.power_on(a)
    cluster.start_services(a)
    refused = a.start(guest)
    assert f"domain {guest.name} is held on host b" in refused.stderr
    cluster.check_held_once(guest, by=b)
