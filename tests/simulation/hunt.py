"""Plants one fault and plays schedules until one of them shows it: `python -m tests.simulation.hunt NAME SEED...`

What it prints is JSON: the seed and theme that caught it and the first violation, or that none did.
"""

from __future__ import annotations

import json
import sys

from tests.simulation.many import prepare


def main(name: str, seeds: list[int]) -> int:
    """1 if it was not caught."""
    prepare(name)
    from tests.simulation.play import play

    for tried, seed in enumerate(seeds, start=1):
        played = play(seed)
        if played.violations:
            caught = {"seed": seed, "theme": played.theme, "tried": tried, "violation": played.violations[0]}
            print(json.dumps({"name": name, **caught}))
            return 0
    print(json.dumps({"name": name, "tried": len(seeds)}))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], [int(word) for word in sys.argv[2:]]))
