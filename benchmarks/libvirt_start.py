"""`virsh start` and `virsh destroy` of a guest with one disk: etcdlock's agent, stock virtlockd, and none at all.

One host for each, on one machine, in turn, each round in another order. Two processes of virsh are in each figure, as
when a person or a script does it; `virsh uri`, which only asks libvirtd for its name, shows how much of it they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks import libvirt_lab
from benchmarks.libvirt_lab import AGENT, NAMES, NOTHING, VIRTLOCKD, Group
from benchmarks.measure import Rounds, Spread, ratio, seconds_of
from benchmarks.report import Row, Section
from tests.libvirt.etcd import etcd_of
from tests.libvirt.guest import Guest
from tests.libvirt.lab import Lab
from tests.libvirt.libvirt_host import LibvirtHost

GOAL = 1.05
VIRSH = "virsh uri, twice"


def section(binary: str, /, *, rounds: int) -> Section:
    title = f"virsh start and destroy, one disk, on {libvirt_lab.guests_run_on()}"
    if lacks := libvirt_lab.missing():
        return Section(title, [], [f"{title}: {lacks}."])
    taken = _measure(binary, rounds=rounds)
    names = [*NAMES, VIRSH]
    times = [Row(name, seconds_of(taken, name).times(1000), "ms") for name in names]
    ratios = [
        Row(f"{AGENT} against {VIRTLOCKD}", ratio(taken, AGENT, to=VIRTLOCKD), "×", GOAL),
        Row(f"{AGENT} against {NOTHING}", ratio(taken, AGENT, to=NOTHING), "×"),
        Row(f"{VIRTLOCKD} against {NOTHING}", ratio(taken, VIRTLOCKD, to=NOTHING), "×"),
    ]
    added = Spread.of([one - other for one, other in zip(taken[AGENT], taken[VIRTLOCKD], strict=True)])
    return Section(title, [*times, *ratios, Row(f"{AGENT} less {VIRTLOCKD}", added.times(1000), "ms")])


def _measure(binary: str, *, rounds: int) -> Rounds:
    with (
        TemporaryDirectory() as folder,
        Lab(Path(folder), host_names="abc") as lab,
        lab.disk() as disk,
        etcd_of(lab, binary=binary, durable=True) as (_, endpoint),
    ):
        groups = libvirt_lab.groups(lab, endpoint, hosts_each=1)
        guests = {group.name: Guest((disk.path,)) for group in groups}
        for group in groups:
            group.hosts[0].define(guests[group.name])
        return _rounds(groups, guests, rounds=rounds)


def _rounds(groups: Sequence[Group], guests: dict[str, Guest], *, rounds: int) -> Rounds:
    """The first round only warms up."""
    taken: dict[str, list[float]] = {name: [] for name in (*NAMES, VIRSH)}
    for number in range(rounds + 1):
        seconds = {}
        for turn in range(len(groups)):
            group = groups[(turn + number) % len(groups)]
            seconds[group.name] = _start_and_destroy(group.hosts[0], guests[group.name])
        seconds[VIRSH] = _uri_twice(groups[0].hosts[0])
        if number:
            for name, each in seconds.items():
                taken[name].append(each)
    return taken


def _start_and_destroy(host: LibvirtHost, guest: Guest) -> float:
    begun = perf_counter()
    host.virsh("start", guest.name)
    host.virsh("destroy", guest.name)
    return perf_counter() - begun


def _uri_twice(host: LibvirtHost) -> float:
    begun = perf_counter()
    host.virsh("uri")
    host.virsh("uri")
    return perf_counter() - begun
