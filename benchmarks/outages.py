"""What guests outlive when etcd is away, and how soon others have the locks of a host that has ended.

At the default timing, in the lab of the fault tests: three members of etcd, three hosts with agents, guests that write
without a pause. First etcd is away in several ways, then hosts are cut off or lose their power.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import Spread
from benchmarks.report import Row, Section
from etcdlock.demo import checker
from etcdlock.demo.timeline import now
from etcdlock.timing import KEPT_BACK_SECONDS, Timing
from tests.cluster.catalogue import FAULTS
from tests.cluster.cluster import CLOCKS, Lab, Scene
from tests.cluster.director import Director
from tests.cluster.fault import Scale
from tests.cluster.figures import Figures
from tests.cluster.guests import Guest
from tests.cluster.keeper import Keeper
from tests.cluster.quorum import Quorum

TIMING = Timing()
ACTIONS = ("kill", "freeze")
AWAY_SECONDS = (10, 20, 60)
SURVIVABLE_SECONDS = Scale(TIMING).survivable_seconds
SOME_RECORDS_SECONDS = 2.0
TAKEOVERS = ("host cut off", "power lost")
"""How a host ends, as the fault tests know it."""


def sections(binary: str, /, *, rounds: int) -> list[Section]:
    """On one lab. `rounds` of each way in which a host may end."""
    if os.geteuid() != 0:
        missing = ["outages of etcd and ends of hosts: they need root, for namespaces and loop devices"]
        return [Section("Outages of etcd", [], missing)]
    with TemporaryDirectory(prefix="etcdlock-lab-") as folder, Lab(Path(folder), binary=binary) as lab:
        return [_outages(lab), _takeovers(lab, rounds=rounds)]


# --- outages ------------------------------------------------------------------------------------------------------


def _outages(lab: Lab) -> Section:
    rows = [row for action in ACTIONS for row in _with_action(lab, action)]
    return Section("Outages of etcd, and what became of three guests on three hosts", rows, counts="once", spread="")


def _with_action(lab: Lab, action: str) -> list[Row]:
    everybody = len(lab.hosts)
    outages: Mapping[str, tuple[Callable[[Quorum], object], bool]] = {
        "leader moved": (Quorum.move_leader, True),
        "leader killed": (_kill_leader, True),
        "all members restarted, one by one": (_restart_all, True),
        **{
            f"all members away for {seconds} s": (_away(seconds), action == "freeze" or seconds < SURVIVABLE_SECONDS)
            for seconds in AWAY_SECONDS
        },
    }
    rows = []
    with lab.scene(TIMING, ETCDLOCK_ON_SESSION_LOST=action) as scene:
        scene.serve()
        for home in scene.hosts:
            scene.keep(1, home=home)
        for what, (outage, all_live) in outages.items():
            found, goal = _survival(scene, outage), everybody if all_live else None
            rows += [
                Row(f"{what}, `{action}`: guests that lived", Spread.of([found.lived]), "", goal, at_least=True),
                Row("… longest pause in their writing", Spread.of([found.pause_seconds]), "s"),
            ]
        scene.end_guests()
    return rows


@dataclass(frozen=True, slots=True)
class Survival:
    """Of an outage. `pause_seconds` counts those that lived, 0 if none did."""

    lived: int
    pause_seconds: float


def _survival(scene: Scene, outage: Callable[[Quorum], object]) -> Survival:
    guests = [guest for keeper in scene.keepers if (guest := keeper.guest) is not None]
    since = now()
    time.sleep(SOME_RECORDS_SECONDS)
    outage(scene.lab.quorum)
    scene.lab.quorum.heal()
    scene.wait_until_at_rest()
    time.sleep(TIMING.suspect_after_seconds + SOME_RECORDS_SECONDS)     # a frozen guest runs on after the next proof
    alive = [(keeper, guest) for keeper, guest in zip(scene.keepers, guests, strict=True) if guest.runs]
    pauses = [_longest_pause(keeper, guest, since=since) for keeper, guest in alive]
    return Survival(len(alive), max(pauses, default=0.0))


def _longest_pause(keeper: Keeper, guest: Guest, *, since: float) -> float:
    records = [each for each in keeper.disk.judge(CLOCKS).records if each.before_at >= since]
    return checker.longest_pause_seconds([each for each in records if each.host == guest.host.name])


def _kill_leader(quorum: Quorum) -> None:
    quorum.members[quorum.leader()].kill()


def _restart_all(quorum: Quorum) -> None:
    for member in quorum.members.values():
        member.restart()
        quorum.wait_until_healthy()


def _away(seconds: float) -> Callable[[Quorum], None]:
    def outage(quorum: Quorum) -> None:
        for member in quorum.members.values():
            member.pause()
        time.sleep(seconds)

    return outage


# --- takeovers ----------------------------------------------------------------------------------------------------


def _takeovers(lab: Lab, *, rounds: int) -> Section:
    figures = Figures(TIMING.takeover_seconds)
    with lab.scene(TIMING) as scene:
        scene.serve()
        scene.keep(len(CLOCKS))
        director = Director(scene, random.Random(0), quiet=True)  # noqa: S311 - which host, nothing secret
        for _ in range(rounds):
            for name in TAKEOVERS:
                director.put_in(FAULTS[name])
        scene.end_guests()
        figures.add(scene, director.blows)
    return Section(
        f"Ends of hosts, {rounds} cut off and {rounds} without power: {len(figures.takeover_seconds)} takeovers",
        list(_rows(figures)),
        [f"something was wrong: {each}" for each in figures.wrong],
    )


def _rows(figures: Figures) -> Iterator[Row]:
    promised = TIMING.takeover_seconds
    if figures.margins:
        yield Row("from a guest's stop to the proof by which its locks were taken", Spread.of(figures.margins), "s")
        yield Row("… least", Spread.of([min(figures.margins)]), "s", KEPT_BACK_SECONDS, at_least=True)
    if figures.takeover_seconds:
        yield Row("from the end of a host to the proof of it", Spread.of(figures.proof_seconds), "s", promised)
        yield Row("… longest", Spread.of([max(figures.proof_seconds)]), "s", promised)
        yield Row("from the end of a host to the next owner", Spread.of(figures.takeover_seconds), "s")
        yield Row("… longest", Spread.of([max(figures.takeover_seconds)]), "s")
