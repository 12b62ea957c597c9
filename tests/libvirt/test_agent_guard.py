"""An agent that dies and stays away leaves its guard behind: guests are dead before others may have their locks."""

from __future__ import annotations

from tests.libvirt.agents import Cluster
from tests.libvirt.guest import Guest
from tests.libvirt.lab import SharedDisk
from tests.libvirt.libvirt_host import LibvirtHost
from tests.libvirt.waiting import wait_until


def test_a_guest_whose_agent_is_gone_for_good_is_dead_before_another_host_may_start_it(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    cluster.agent(a).kill()
    assert "is held on host a" in b.start(guest).stderr
    wait_until(lambda: a.qemu_pid(guest.name) is None, what="the guard has stopped the guest")
    assert cluster.lock(guest).record.owner.host == "a", "nobody could have had its locks before"
    wait_until(lambda: b.start(guest).returncode == 0, what="the other host has taken the locks over")
    cluster.check_held_once(guest, by=b)
    assert cluster.runs_on(guest) == ["b"]
    cluster.start_agent(a)
