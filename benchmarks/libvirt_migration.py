"""How long a guest stands still while it migrates live: etcdlock's agents, stock virtlockds, and no locks at all.

Two hosts for each on one machine, there and back, in turn. The downtime is libvirt's own "Total downtime" on the source
(`virsh domjobinfo --completed`): from the moment in which the guest's processors were stopped there until they run on
the destination, so the locks' change of hands is in it. libvirt gives it in whole milliseconds.

virtlockd keeps its locks in a folder that both hosts share, and frees them in between; etcdlock's change hands at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import libvirt_lab
from benchmarks.libvirt_lab import AGENT, NAMES, NOTHING, VIRTLOCKD, Group
from benchmarks.measure import Rounds, Spread
from benchmarks.report import Row, Section
from tests.libvirt.etcd import etcd_of
from tests.libvirt.guest import Guest
from tests.libvirt.lab import Lab
from tests.libvirt.libvirt_host import LOCKD_IN_SHARED_FILES, LibvirtHost

GOAL_MS = 10.0
PATTERN = re.compile(r"^Total downtime:\s+([0-9.]+)\s+(\S+)", re.MULTILINE)
MILLISECONDS = {"ms": 1.0, "s": 1000.0}


def section(binary: str, /, *, rounds: int) -> Section:
    title = f"Downtime of a live migration, one disk, on {libvirt_lab.guests_run_on()}"
    if lacks := libvirt_lab.missing():
        return Section(title, [], [f"{title}: {lacks}."])
    taken = _measure(binary, rounds=rounds)
    times = [Row(name, Spread.of(taken[name]), "ms") for name in NAMES]
    added = [
        Row(f"{name}, added to {NOTHING}: difference of the medians", _added(taken, name), "ms", goal)
        for name, goal in ((AGENT, GOAL_MS), (VIRTLOCKD, None))
    ]
    return Section(title, [*times, *added])


def _added(taken: Rounds, name: str) -> Spread:
    """The medians' difference; its spread is that of the differences within a round."""
    within = Spread.of([one - other for one, other in zip(taken[name], taken[NOTHING], strict=True)])
    medians = Spread.of(taken[name]).median - Spread.of(taken[NOTHING]).median
    return Spread(medians, within.low, within.high)


def _measure(binary: str, *, rounds: int) -> Rounds:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        lab = stack.enter_context(Lab(folder, host_names="abcdef"))
        disks = {name: stack.enter_context(lab.disk()) for name in NAMES}
        _, endpoint = stack.enter_context(etcd_of(lab, binary=binary, durable=True))
        groups = libvirt_lab.groups(lab, endpoint, hosts_each=2, virtlockd_conf=LOCKD_IN_SHARED_FILES)
        guests = {name: Guest((disks[name].path,)) for name in NAMES}
        for group in groups:
            for host in group.hosts:  # or a source would have forgotten the guest by the time that it is asked
                host.define(guests[group.name])
            group.hosts[0].virsh("start", guests[group.name].name)
        return _rounds(groups, guests, rounds=rounds)


def _rounds(groups: Sequence[Group], guests: dict[str, Guest], *, rounds: int) -> Rounds:
    """There and back in turn; the first round only warms up."""
    taken: dict[str, list[float]] = {name: [] for name in NAMES}
    for number in range(rounds + 1):
        for turn in range(len(groups)):
            group = groups[(turn + number) % len(groups)]
            source, destination = group.hosts[number % 2], group.hosts[(number + 1) % 2]
            downtime = _migrate(guests[group.name], source, destination)
            if number:
                taken[group.name].append(downtime)
    return taken


def _migrate(guest: Guest, source: LibvirtHost, destination: LibvirtHost) -> float:
    """Milliseconds for which it stood still."""
    moved = source.migrate(guest, to=destination)
    if moved.returncode:
        raise RuntimeError(f"a migration failed: {moved.stderr}")
    told = source.virsh("domjobinfo", guest.name, "--completed").stdout
    found = PATTERN.search(told)
    if found is None:
        raise RuntimeError(f"libvirt does not say how long the guest stood still: {told}")
    return float(found[1]) * MILLISECONDS[found[2]]
