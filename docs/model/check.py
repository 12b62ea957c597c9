"""Checks the model with spin: `make model`, or `python3 docs/model/check.py [--quick] [WEAKENING …]`.

Without arguments every configuration is searched exhaustively and every weakening must be caught; a weakening that is
named is checked alone, and its shortest counterexample is printed. Needs spin and gcc.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
MEMORY_BYTES = 6 << 30

FULL = (("THIRD=1", "TROUBLES=1"), ("THIRD=0", "TROUBLES=1"), ("HOSTS=2", "TROUBLES=4"))
QUICK = (("THIRD=1", "TROUBLES=1"),)

WEAKENINGS = {
    "NO_SESSION_COMPARE": ("TROUBLES=2",),
    "BLIND_RETRY": ("TROUBLES=2",),
    "ACQUIRE_WITHOUT_RIVALS": ("TROUBLES=0",),
    "CLAIM_WITHOUT_COMPARE": ("TROUBLES=1",),
    "CLAIM_EARLY": ("TROUBLES=1",),
    "TOKEN_KEPT": ("TROUBLES=1",),
    "UNPARK_WITHOUT_COMPARE": ("TROUBLES=1",),
    "BLIND_UNPARK": ("TROUBLES=1",),
    "REJOIN_WITHOUT_COMPARE": ("TROUBLES=2",),
    "HAND_BACK_WITHOUT_COMPARE": ("TROUBLES=1",),
    "TAKE_WITHOUT_PROOF": ("TROUBLES=1",),
    "TAKE_WITHOUT_COMPARE": ("TROUBLES=2",),
    "PARKED_WITHOUT_PROOF": ("TROUBLES=1",),
    "RESTING_DISARMED": ("TROUBLES=1",),
    "OBITUARY_EARLY": ("TROUBLES=1",),
    "READ_NOT_BARRIER": ("TROUBLES=1",),
    "LATE_YES": ("TROUBLES=1",),
    "UNARMED_YES": ("TROUBLES=1",),
    "ARM_BEFORE_REJOIN": ("TROUBLES=2",),
    "RELEASE_EARLY": ("TROUBLES=1",),
    "DISARM_EARLY": ("TROUBLES=1",),
    "YES_WITHOUT_DISK": ("TROUBLES=1",),
    "CLAIM_WITHOUT_RUN": ("TROUBLES=1",),
    "RESUME_WITHOUT_RUN": ("TROUBLES=1",),
}
"""Each with the least that it needs to go wrong."""


@dataclass(frozen=True)
class Outcome:
    """What a search found. `trail` is the shortest way to a violation, a line a step; empty where there is none."""

    complete: bool
    states: int
    seconds: float
    megabytes: float
    trail: tuple[str, ...]


def search(*macros: str, is_short: bool = False) -> Outcome:
    """Search the model breadth first under these macros. Raises `CalledProcessError` where it cannot be built.

    To make a program that is fast takes gcc longer than the slow one needs for a search that `is_short`.
    """
    with tempfile.TemporaryDirectory(prefix="etcdlock-model-") as folder:
        spin = ["spin", *(f"-D{macro}" for macro in macros)]
        model = str(HERE / "protocol.pml")
        _run([*spin, "-a", model], folder)
        effort = "-O0" if is_short else "-O2"
        _run(["gcc", effort, "-w", "-DSAFETY", "-DNOREDUCE", "-DBFS", "-o", "pan", "pan.c"], folder)
        begun = time.monotonic()
        said = _run(["nice", "-n", "15", "./pan", "-E", "-n", "-w24"], folder)
        seconds = time.monotonic() - begun
        trail = Path(folder, "protocol.pml.trail")
        told = _run([*spin, "-T", "-t", "-k", str(trail), model], folder, check=False) if trail.exists() else ""
    return Outcome(
        complete="Search not completed" not in said and "errors:" in said,
        states=int(_number(r"(\d+) states, stored", said)),
        seconds=seconds,
        megabytes=_number(r"([\d.]+)\ttotal actual memory", said),
        trail=tuple(line.strip() for line in told.splitlines() if line.strip().startswith("host ")),
    )


def _run(command: list[str], folder: str, *, check: bool = True) -> str:
    done = subprocess.run(  # noqa: S603  # our own command
        command, cwd=folder, capture_output=True, text=True, check=check, preexec_fn=_bound
    )
    return done.stdout + done.stderr


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    return float(found.group(1)) if found else 0.0


def holds(macros: tuple[str, ...]) -> bool:
    """Search one configuration, print what it took, and the way to a violation if there is one."""
    found = search(*macros)
    good = found.complete and not found.trail
    verdict = "holds" if good else "VIOLATED" if found.trail else "NOT SEARCHED TO ITS END"
    took = f"{found.states:>11,} states {found.seconds:6.1f} s {found.megabytes:6.0f} MB"
    print(f"{' '.join(macros):32} {took}  {verdict}")
    for line in found.trail:
        print("   ", line)
    return good


def is_caught(name: str, *, show: bool) -> bool:
    """Search under one weakening, which must violate; print the number of steps, and the steps if asked to."""
    found = search(name, *WEAKENINGS[name], is_short=True)
    print(f"{name:28} {f'caught after {len(found.trail)} steps' if found.trail else 'NOT CAUGHT'}")
    for line in found.trail if show else ():
        print("   ", line)
    return bool(found.trail)


def main() -> int:
    """0 where everything holds that must, and everything is caught that must be."""
    parser = argparse.ArgumentParser(description="check the model of the lock protocol with spin")
    parser.add_argument("--quick", action="store_true", help="a reduced configuration")
    parser.add_argument("weakening", nargs="*", metavar="WEAKENING", help="only these, with their counterexamples")
    asked = parser.parse_args()
    unknown = set(asked.weakening) - WEAKENINGS.keys()
    if unknown:
        parser.error(f"no such weakening: {', '.join(sorted(unknown))}; there are {', '.join(WEAKENINGS)}")
    results = [] if asked.weakening else [holds(macros) for macros in (QUICK if asked.quick else FULL)]
    names = asked.weakening or WEAKENINGS
    results += [is_caught(name, show=bool(asked.weakening)) for name in names]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
