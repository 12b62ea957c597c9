"""Plays many schedules with several processes, or some of them again: `python -m tests.simulation [SEED…] [--seeds N]`.

Seeds given by hand are played one after the other and told of in full; `--history FILE` keeps what happened. Without
any, those from `--first` on are played, and each that fails is printed with the command that plays it again. `--plant`
plants a fault of `mutants` first, to look at how it goes wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from tests.simulation.many import play_many, prepare

SEEDS = 100_000


def main() -> int:
    """1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="*", help="play these, one after the other, and tell all of it")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many to play, {SEEDS} unless told")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at one time")
    parser.add_argument("--history", type=Path, help="append the history of the seeds given by hand to this file")
    parser.add_argument("--plant", default="", help="the name of a fault")
    options = parser.parse_args()
    if options.seed:
        prepare(options.plant)
        return max([_one(seed, options.history) for seed in options.seed])
    return _many(range(options.first, options.first + options.seeds), jobs=options.jobs, planted=options.plant)


def _one(seed: int, history: Path | None) -> int:
    from tests.simulation.play import play

    played = play(seed, with_history=True)
    print(f"seed {seed}, {played.theme}, history {played.digest[:16]}: {len(played.violations)} violations")
    for violation in played.violations:
        print(f"  {violation}")
    if history is not None:
        with history.open("a", encoding="utf-8") as file:
            file.write(f"{played.history}\n")
    return int(bool(played.violations))


def _many(seeds: range, *, jobs: int, planted: str) -> int:
    begun, done = time.monotonic(), 0
    failed = []
    for played in play_many(seeds, jobs=jobs, planted=planted):
        done += 1
        if played.violations:
            failed.append(played.seed)
            again = f"python -m tests.simulation {played.seed}" + (f" --plant {planted}" if planted else "")
            print(f"seed {played.seed}, {played.theme}: {played.violations[0]}\n  {again}", flush=True)
        if done % 1000 == 0:
            print(f"{done} schedules in {time.monotonic() - begun:.0f} s, {len(failed)} failed", flush=True)
    print(f"{done} schedules in {time.monotonic() - begun:.0f} s, failed: {sorted(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
