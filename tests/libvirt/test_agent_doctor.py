"""Guests started while no agent ran: doctor finds them on a real libvirt, and attached they are guarded like others."""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.libvirt.agents import Cluster
from tests.libvirt.guest import Guest
from tests.libvirt.lab import SharedDisk
from tests.libvirt.libvirt_host import LOCKD, NOP, LibvirtHost
from tests.libvirt.waiting import wait_until


def etcdlock(cluster: Cluster, host: LibvirtHost, *arguments: str) -> Any:
    """The document of a command on the host, and its exit code."""
    done = host.run([sys.executable, "-m", "etcdlock", *arguments, "--json"], env=cluster.environment(host))
    return {**json.loads(done.stdout), "status": done.returncode}


def host_findings(cluster: Cluster, host: LibvirtHost) -> list[str]:
    found = etcdlock(cluster, host, "doctor")
    return [finding["text"] for finding in found["findings"] if finding["evidence"]]


def test_a_guest_that_was_started_without_locks_is_found_attached_and_then_refused_elsewhere(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,), name="vm one")
    assert host_findings(cluster, a) == []
    a.stop_libvirtd()
    a.start_libvirtd(NOP)
    cluster.start(guest, on=a)
    assert host_findings(cluster, a) == [
        "guest vm one runs and holds no lock: another host may start it, or write its disks",
        "libvirt does not ask the agent for locks: its guests start without any",
    ]
    attached = etcdlock(cluster, a, "attach", guest.name)
    assert attached["status"] == 0, attached
    (adopted,) = etcdlock(cluster, a, "adopt")["guests"]
    assert (adopted["domain"]["name"], adopted["outcome"]) == ("vm one", "locked already")
    a.stop_libvirtd()
    a.start_libvirtd(LOCKD)
    assert host_findings(cluster, a) == []
    cluster.check_held_once(guest, by=a)
    assert "is held" in b.start(guest).stderr
    a.destroy(guest)
    cluster.wait_until_free()


def test_a_guest_that_runs_while_another_host_holds_its_lock_is_told_on_the_wrong_host_alone(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    b.stop_libvirtd()
    b.start_libvirtd(NOP)
    cluster.start(guest, on=b)
    assert any("RUNS HERE and host a HOLDS ITS LOCK" in text for text in host_findings(cluster, b))
    assert host_findings(cluster, a) == []
    refused = etcdlock(cluster, b, "attach", guest.name)
    assert (refused["status"], refused["error"]) == (100, "HeldElsewhere")
    adopted = etcdlock(cluster, b, "adopt")
    assert (adopted["status"], adopted["guests"][0]["outcome"]) == (100, "held elsewhere")
    b.destroy(guest)
    b.stop_libvirtd()
    b.start_libvirtd(LOCKD)
    a.destroy(guest)
    cluster.wait_until_free()


def test_a_host_without_its_agent_is_told_of_and_its_guest_keeps_its_lock(
    cluster: Cluster, a: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    cluster.agent(a).kill()
    assert host_findings(cluster, a) == ["no agent runs on this host, and 1 guest(s) of libvirt's run"]
    cluster.start_agent(a)
    wait_until(lambda: host_findings(cluster, a) == [], what="the new agent serves")
    a.destroy(guest)
    cluster.wait_until_free()
