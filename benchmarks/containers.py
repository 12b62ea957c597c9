"""The image, and how long docker-compose.yml takes: until its hosts are ready, and for a takeover of a killed one.

At the default timing, with an engine that keeps its images on the disk. They are built before anything is measured.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.measure import Spread
from benchmarks.report import Row, Section
from etcdlock.timing import Timing
from tests.containers.engine import engine
from tests.containers.trial import Trial, trial

ROOT = Path(__file__).parents[1]
IMAGES = {"etcdlock": 150.0, "etcdlock-etcd": None}
"""Megabytes that they may have."""
ETCD = "etcd of Debian 12, three members in containers, on this machine's disk"
UP_SECONDS = 30.0
GUEST, KILLED, NEXT = "vm1", "host-b", "host-c"


def section(*, rounds: int) -> Section:
    title = f"docker-compose.yml: three members of etcd with TLS and three hosts, brought up {rounds} times"
    try:
        with engine(in_memory=False):
            subprocess.run([ROOT / "deploy" / "build-images"], stdout=subprocess.DEVNULL, check=True)
            return Section(title, [*_sizes(), *_times(rounds)])
    except pytest.skip.Exception as skipped:
        return Section(title, [], [f"containers: {skipped}"])


def _sizes() -> list[Row]:
    return [Row(f"image {name}", Spread.of([_megabytes(name)]), "MB", goal) for name, goal in IMAGES.items()]


def _megabytes(image: str) -> float:
    command = ["docker", "image", "inspect", "--format", "{{.Size}}", image]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1e6


def _times(rounds: int) -> list[Row]:
    up, refused, taken_over = [], [], []
    for _ in range(rounds):
        with trial(ROOT, quick=False) as cluster:
            up.append(cluster.up_seconds)
            _do(cluster, KILLED, "start")
            refused.append(_refusal(cluster))
            taken_over.append(_takeover(cluster))
    return [
        Row("`docker compose up` to three hosts that take requests", Spread.of(up), "s", UP_SECONDS),
        Row("a guest refused where another host has it, the whole command", Spread.of(refused), "s"),
        Row("`docker kill` of a host to its guest on another", Spread.of(taken_over), "s", Timing().takeover_seconds),
        Row("… longest", Spread.of([max(taken_over)]), "s"),
    ]


def _refusal(cluster: Trial) -> float:
    began = time.monotonic()
    cluster.on(NEXT, "vm", "start", GUEST)
    return time.monotonic() - began


def _takeover(cluster: Trial) -> float:
    began = time.monotonic()
    cluster.docker("kill", cluster.container(KILLED))
    _do(cluster, NEXT, "start", "--wait", "90")
    return time.monotonic() - began


def _do(cluster: Trial, host: str, *words: str) -> None:
    done = cluster.on(host, "vm", *words, GUEST)
    if done.returncode:
        raise RuntimeError(f"vm {' '.join(words)} {GUEST} on {host}: {done.stderr}")
