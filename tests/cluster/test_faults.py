"""Faults on real processes, judged from outside: no two guests ever write one disk, and none stops without need.

The short run. The order is drawn from a seed; `make soak` goes through all kinds for an hour at the default timing.
"""

from __future__ import annotations

import random

import pytest

from tests.cluster.catalogue import FAULTS
from tests.cluster.cluster import SHORT, Lab
from tests.cluster.director import Director
from tests.cluster.figures import Figures
from tests.contract.etcds import DISTRO, SYSTEM

SEED = 4
DOMAINS = 3
RUN_SECONDS = 300
"""An upper bound for a busy machine; it takes about a minute."""

NETWORK_AND_AGENT = (
    "host cut off from the leader",
    "host cannot send, shortly",
    "a host's frames late",
    "leader cut off from the members",
    "agent and guard killed",
    "guard stopped",
    "session revoked",
    "host cut off",
)
ETCD_AND_POWER = (
    "leader's disk frozen past the TTL",
    "leader stopped past the TTL",
    "all members stopped",
    "member replaced",
    "etcd full",
    "agent stopped, shortly",
    "guard killed",
    "power lost",
)


@pytest.mark.timeout(RUN_SECONDS)
@pytest.mark.parametrize(
    ("lab", "names"), [(DISTRO, NETWORK_AND_AGENT), (SYSTEM, ETCD_AND_POWER)], indirect=["lab"], ids=[DISTRO, SYSTEM]
)
def test_no_two_guests_write_one_disk_and_none_is_stopped_without_need(lab: Lab, names: tuple[str, ...]) -> None:
    chance, figures = random.Random(SEED), Figures(SHORT.takeover_seconds)  # noqa: S311 - the order, nothing secret
    with lab.scene(SHORT) as scene:
        scene.serve()
        scene.keep(DOMAINS, seed=SEED)
        director = Director(scene, chance)
        for name in chance.sample(names, len(names)):
            director.put_in(FAULTS[name])
        scene.end_guests()
        figures.add(scene, director.blows)
    print(*(f"{what}: {value}" for what, value in figures.lines()), sep="\n")
    assert figures.wrong == []
    assert figures.takeovers > 0, "the run has shown nothing of what it is for"
    assert min(figures.margins, default=1.0) > 0


@pytest.mark.timeout(RUN_SECONDS)
@pytest.mark.parametrize("lab", [DISTRO], indirect=True)
def test_two_faults_at_once_cost_no_lock_and_are_both_over_in_the_end(lab: Lab) -> None:
    figures = Figures(SHORT.takeover_seconds)
    with lab.scene(SHORT) as scene:
        scene.serve()
        scene.keep(1, seed=SEED)
        director = Director(scene, random.Random(SEED))  # noqa: S311 - who is hit, nothing secret
        director.put_in(FAULTS["members cut off from each other"], beside=FAULTS["agent and guard killed"])
        scene.end_guests()
        figures.add(scene, director.blows)
    assert figures.wrong == []
