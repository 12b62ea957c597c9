"""A guest that cannot die when it must: its storage is frozen, the kernel does not let it go, and no watchdog is there.

What docs/SAFETY.md says of it: it dies as soon as the storage thaws, the agent says that it is stuck, and no more
than the one write that the kernel had accepted before can still reach the disk.
"""

from __future__ import annotations

from etcdlock.demo import checker
from etcdlock.demo.timeline import now
from tests.cluster.cluster import CLOCKS, EVERYBODY, QUICK, Lab
from tests.libvirt.waiting import wait_until


def test_a_guest_stuck_in_frozen_storage_dies_with_the_thaw_and_writes_nothing_that_it_had_not_begun(lab: Lab) -> None:
    with lab.scene(QUICK) as scene:
        scene.serve()
        scene.keep(1, home="a")
        (keeper,) = scene.keepers
        guest, a = keeper.guests[0], lab.hosts["a"]
        lab.freeze_disks()
        frozen_at = now()
        lab.network.part(("a",), EVERYBODY)
        scene.lost.add("a")
        wait_until(lambda: "guest_stuck" in a.log(), what="the agent says that its guest is stuck")
        wait_until(lambda: len(scene.witness.takeovers()) == 1, what="another host has its locks, by its silence")
        assert guest.runs, "the kernel let it go: nothing was shown"

        lab.thaw_disks()
        assert guest.wait(within_seconds=QUICK.kill_seconds), "it outlived the thaw"
        lab.network.heal()
        scene.lost.clear()
        scene.wait_until_at_rest()
        scene.end_guests()
        records = keeper.disk.judge(CLOCKS).records
    first = records[0].token
    begun_before = [record for record in records if record.token != first or record.before_at < frozen_at]
    accepted = [record for record in records if record not in begun_before]
    assert len(accepted) <= 1
    assert all(record.before_at < frozen_at + 1.0 for record in accepted)
    assert checker.judge(begun_before).faults == ()
    assert len({record.token for record in records}) > 1
