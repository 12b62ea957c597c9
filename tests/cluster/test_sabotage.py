"""The judges must bite: one line of etcdlock is spoilt on one host, and they must find two guests on one disk.

Everything else is real, and beside it the same happens to a host that is sound.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.cluster.cluster import CLOCKS, EVERYBODY, QUICK, Lab
from tests.cluster.host import PACKAGE
from tests.cluster.keeper import Keeper
from tests.libvirt.waiting import wait_until

OVERLAP = re.compile(r"wrote \d+ ms before \w+ \(token \d+\) had ended|the token shrank")
RECORDS = 5


def without_deadline(folder: Path) -> Path:
    """An etcdlock whose hosts never think that it is time to stop a guest."""
    shutil.copytree(PACKAGE / "etcdlock", folder / "etcdlock")
    timing = folder / "etcdlock" / "timing.py"
    rule = "return self.budget_seconds - self._reset_seconds - self.kill_seconds - self.guard_lag_seconds"
    assert rule in timing.read_text(encoding="utf-8"), "the rule that is to be spoilt is written differently now"
    timing.write_text(timing.read_text(encoding="utf-8").replace(rule, "return 1e6"), encoding="utf-8")
    return folder


def test_a_host_that_never_stops_its_guests_is_found_out_and_one_that_does_is_not(lab: Lab, tmp_path: Path) -> None:
    with lab.scene(QUICK) as scene:
        scene.serve(packages={"a": without_deadline(tmp_path)})
        for home in ("a", "b"):
            scene.keep(1, home=home)
        spoilt, sound = scene.keepers
        scene.lost.update(("a", "b"))
        lab.network.part(("a", "b"), EVERYBODY)
        wait_until(lambda: all(has_another_writer(keeper) for keeper in scene.keepers), what="the guests of c write")
        lab.network.heal()
        scene.end_guests()
        faults = spoilt.disk.judge(CLOCKS).faults
        assert sound.disk.judge(CLOCKS).faults == ()
    assert any(map(OVERLAP.search, faults)), faults


def has_another_writer(keeper: Keeper) -> bool:
    """Some records of it."""
    tenures = keeper.disk.judge(CLOCKS).tenures
    return any(tenure.host == "c" and tenure.records >= RECORDS for tenure in tenures)
