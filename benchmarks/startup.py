"""How long a fresh Python takes to import etcdlock, and the command line to print its help.

The best of several counts: whatever else the machine does can only add to it. The spread shown is from the best to the
median.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from time import perf_counter

from benchmarks.measure import Spread
from benchmarks.report import Row, Section

TRIES = 15
TIMED_IMPORT = "import time; begun = time.perf_counter(); import {}; print(time.perf_counter() - begun)"
STORE = "etcdlock.agent.solo, etcdlock.adapters.etcd"


def section() -> Section:
    return Section(
        "Start, in a fresh process",
        [
            Row("`import etcdlock`", _best_import("etcdlock"), "s", 0.15),
            Row("… and all that a session needs (gRPC included)", _best_import(STORE), "s"),
            Row("`etcdlock --help`, the whole process", _best_run("-m", "etcdlock", "--help"), "s", 0.4),
            Row("`python -c pass`, for comparison", _best_run("-c", "pass"), "s"),
        ],
        counts=f"best of {TRIES}",
        spread="best to median",
    )


def _best_import(modules: str) -> Spread:
    return _best([float(_run("-c", TIMED_IMPORT.format(modules))) for _ in range(TRIES)])


def _best_run(*arguments: str) -> Spread:
    seconds = []
    for _ in range(TRIES):
        begun = perf_counter()
        _run(*arguments)
        seconds.append(perf_counter() - begun)
    return _best(seconds)


def _run(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout


def _best(seconds: list[float]) -> Spread:
    return Spread(min(seconds), min(seconds), statistics.median(seconds))
