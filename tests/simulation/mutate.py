"""Plants every fault of `mutants`, one at a time, and sees it caught: `python -m tests.simulation.mutate [NAME…]`.

Each is tried with the schedule that caught it last, then with those of the themes in which it should show, then with
all others, up to the budget: the same schedules that CI plays without a fault. A fault that no longer applies, or that
none of them shows, is an error. `--save` keeps the schedules that caught them, for the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.simulation.mutants import MUTANTS
from tests.simulation.planting import DoesNotApply, Mutant
from tests.simulation.themes import theme_of

HINTS = Path(__file__).with_name("caught.json")
BUDGET = 1000
ROOT = Path(__file__).parents[2]


def main() -> int:
    """How many were not caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutate", description=__doc__)
    parser.add_argument("name", nargs="*", help="plant only these")
    parser.add_argument("--budget", type=int, default=BUDGET, help=f"schedules for each, {BUDGET} unless told")
    parser.add_argument("--tries", type=int, default=BUDGET, help="give up on one after so many of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at one time")
    parser.add_argument("--save", action="store_true", help=f"remember in {HINTS.name} which schedule caught which")
    options = parser.parse_args()
    wanted = [mutant for mutant in MUTANTS if not options.name or mutant.name in options.name]
    begun, hints = time.monotonic(), json.loads(HINTS.read_text(encoding="utf-8")) if HINTS.exists() else {}
    survivors = []
    for result in hunt_all(wanted, hints=hints, budget=options.budget, tries=options.tries, jobs=options.jobs):
        print(_told(result), flush=True)
        if "seed" in result:
            hints[result["name"]] = result["seed"]
            if options.save:
                HINTS.write_text(json.dumps(hints, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        else:
            survivors.append(result["name"])
    caught = len(wanted) - len(survivors)
    print(f"{caught} of {len(wanted)} faults caught in {time.monotonic() - begun:.0f} s; not caught: {survivors}")
    return len(survivors)


def hunt_all(
    mutants: Iterable[Mutant], *, hints: Mapping[str, int], budget: int, tries: int, jobs: int
) -> Iterator[dict[str, Any]]:
    """What became of each, as they come."""
    themes = [theme_of(seed).__name__ for seed in range(budget)]
    with ThreadPoolExecutor(jobs) as pool:
        orders = [(mutant, order(mutant, themes, hint=hints.get(mutant.name))[:tries]) for mutant in mutants]
        hunts = [pool.submit(_hunt, mutant, seeds) for mutant, seeds in orders]
        for hunt in as_completed(hunts):
            yield hunt.result()


def order(mutant: Mutant, themes: list[str], *, hint: int | None) -> list[int]:
    """The seeds of a budget, in the order in which they are most likely to show the fault."""
    seeds = range(len(themes))
    likely = [seed for theme in mutant.themes for seed in seeds if themes[seed] == theme]
    first = [] if hint is None or hint not in seeds else [hint]
    return list(dict.fromkeys([*first, *likely, *seeds]))


def _hunt(mutant: Mutant, seeds: list[int]) -> dict[str, Any]:
    try:
        mutant.sources()
    except DoesNotApply as error:
        return {"name": mutant.name, "promise": mutant.promise, "error": str(error)}
    command = (sys.executable, "-m", "tests.simulation.hunt", mutant.name, *map(str, seeds))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout) if done.stdout else {"name": mutant.name, "error": done.stderr[-800:]}
    return {**found, "promise": mutant.promise}


def _told(result: Mapping[str, Any]) -> str:
    if "seed" in result:
        by = f"seed {result['seed']}, {result['theme']}, schedule {result['tried']}"
        return f"caught    {result['name']} ({result['promise']}) by {by}: {result['violation'][:160]}"
    return f"NOT CAUGHT {result['name']} ({result['promise']}): {result.get('error') or result['tried']}"


if __name__ == "__main__":
    sys.exit(main())
