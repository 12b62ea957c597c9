"""Figures as tables: printed, and written between the markers of docs/PERFORMANCE.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from benchmarks.measure import Spread

MARKERS = "<!-- {}: begin -->", "<!-- {}: end -->"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `goal` is a bound on its median; `at_least` says from which side."""

    what: str
    figure: Spread
    unit: str
    goal: float | None = None
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        if self.goal is None:
            return True
        return self.figure.median >= self.goal if self.at_least else self.figure.median <= self.goal

    def cells(self) -> tuple[str, str, str, str]:
        digits = 0 if self.figure.median >= 1000 else 2 if self.figure.median >= 0.1 else 4
        median, low, high = (f"{n:,.{digits}f}" for n in (self.figure.median, self.figure.low, self.figure.high))
        goal = "" if self.goal is None else f"{'≥' if self.at_least else '≤'} {self.goal:g}"
        verdict = "" if self.goal is None else " met" if self.is_met else " **missed**"
        return self.what, f"{median} {self.unit}".rstrip(), f"{low} to {high}", goal + verdict


@dataclass(frozen=True, slots=True)
class Section:
    """What belongs together. `missing` says what could not be measured here, and why."""

    title: str
    rows: Sequence[Row]
    missing: Sequence[str] = ()
    counts: str = "median"
    spread: str = "quartiles"

    def text(self) -> str:
        head = ("", self.counts, self.spread, "goal")
        table = [head, ("---", "---:", "---:", "---"), *(row.cells() for row in self.rows)]
        lines = ["| " + " | ".join(cells) + " |" for cells in table] if self.rows else []
        return "\n".join([f"### {self.title}", "", *lines, *(f"\nNot measured: {item}" for item in self.missing)])


def machine(*, etcd: str) -> str:
    """What the figures were taken on."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("grpcio", "protobuf", "etcd3"))
    when = datetime.now(UTC).date().isoformat()
    return (
        f"Measured {when} on {_processor()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {versions}; {etcd}. Load average when it began: {os.getloadavg()[0]:.2f}."
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def write(figures: str, /, *, of: str, into: Path) -> None:
    """Replace what stands between the markers of this part. Raises `ValueError` if they are not there."""
    begin, end = (marker.format(of) for marker in MARKERS)
    before, begun, rest = into.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise ValueError(f"{into}: the markers {begin} and {end} are missing")
    into.write_text(f"{before}{begin}\n\n{figures}\n\n{end}{after}", encoding="utf-8")
