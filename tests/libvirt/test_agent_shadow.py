"""Shadow mode under a real libvirt: guests go as if there were no lock manager, and the report says what was wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.libvirt.agents import BY_PATH, Cluster, cluster_of
from tests.libvirt.guest import Guest
from tests.libvirt.lab import Lab, SharedDisk
from tests.libvirt.libvirt_host import LibvirtHost
from tests.libvirt.waiting import wait_until


@pytest.fixture
def trial(clean_lab: Lab) -> Iterator[Cluster]:
    """All hosts in shadow mode."""
    with cluster_of(clean_lab, settings={**BY_PATH, "ETCDLOCK_MODE": "shadow"}) as cluster:
        yield cluster


def report(trial: Cluster, host: LibvirtHost) -> Any:
    done = host.run([sys.executable, "-m", "etcdlock", "shadow", "--json"], env=trial.environment(host))
    assert done.returncode in (0, 107), done.stderr
    return json.loads(done.stdout)


def test_a_guest_started_on_two_hosts_runs_on_both_and_one_that_migrates_is_no_finding(
    trial: Cluster, a: LibvirtHost, b: LibvirtHost, other_disk: SharedDisk, disk: SharedDisk
) -> None:
    twice, moved = Guest((disk.path,), name="twice"), Guest((other_disk.path,), name="moved")
    trial.start(twice, on=a)
    trial.start(twice, on=b)  # which no lock manager would let happen
    assert trial.runs_on(twice) == ["a", "b"]
    wait_until(lambda: report(trial, b)["refused"], what="it is told of")
    (row,) = report(trial, b)["refused"]
    assert (row["domain"], row["asked"], row["reason"]) == ("twice", "take", "HeldElsewhere")
    assert row["holders"] == "domain twice on host a"
    trial.start(moved, on=a)
    migrated = a.migrate(moved, to=b)
    assert migrated.returncode == 0, migrated.stderr
    b.virsh("suspend", moved.name)
    b.virsh("resume", moved.name)
    trial.etcd.pause()
    a.virsh("suspend", twice.name)
    a.virsh("resume", twice.name)
    trial.etcd.resume()
    assert trial.runs_on(moved) == ["b"]
    assert trial.records.locks() == {}, "the real cluster was written"
    assert [row["domain"] for host in (a, b) for row in report(trial, host)["refused"]] == ["twice"]
