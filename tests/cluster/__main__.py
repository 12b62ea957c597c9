"""The long run: faults without end on a lab at the default timing, half of the time on each etcd that there is.

    python -m tests.cluster [--seconds 3600] [--seed N] [--etcd PATH]... [--short] [--write]

As root. Ends with 1 if anything was wrong; the seed is printed and draws the same faults again, though processes never
run twice in the same way. With --write the figures go into docs/FAULTS.md.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from etcdlock.adapters.embedded_binary import etcd_of_distro, etcd_on_path
from etcdlock.timing import Timing
from tests.cluster.cluster import SHORT, Lab
from tests.cluster.director import Director, endless
from tests.cluster.figures import Figures

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "FAULTS.md"
BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"
DOMAINS: Final = 5


def main() -> int:
    """Run, print, judge."""
    arguments = _arguments()
    binaries = arguments.etcd or [each for each in (etcd_of_distro(), etcd_on_path()) if each]
    timing = SHORT if arguments.short else Timing()
    arguments.timing = "the short one of the tests" if arguments.short else "the default"
    print(f"seed {arguments.seed}, timing {timing}", file=sys.stderr)
    found = [
        (_version(binary), soak(binary, timing, seconds=arguments.seconds / len(binaries), seed=arguments.seed))
        for binary in binaries
    ]
    text = _text(found, arguments)
    print(text)
    if arguments.write:
        _write(text)
    wrong = [f"{version}: {each}" for version, figures in found for each in figures.wrong]
    for each in wrong:
        print(f"WRONG: {each}", file=sys.stderr)
    return 1 if wrong else 0


def soak(binary: str, timing: Timing, /, *, seconds: float, seed: int) -> Figures:
    """One lab on one etcd, for so long and until it has come to rest."""
    figures, chance = Figures(timing.takeover_seconds), random.Random(seed)  # noqa: S311 - which faults, nothing secret
    with (
        TemporaryDirectory(prefix="etcdlock-lab-") as folder,
        Lab(Path(folder), binary=binary, seed=seed) as lab,
        lab.scene(timing) as scene,
    ):
        scene.serve()
        scene.keep(DOMAINS, seed=seed)
        director, until = Director(scene, chance), time.monotonic() + seconds
        try:
            for fault, beside in endless(chance):
                if time.monotonic() > until:
                    break
                director.put_in(fault, beside=beside)
            scene.end_guests()
        except AssertionError as failure:
            figures.wrong.append(str(failure))
            scene.orders.ends.set()
        finally:
            figures.add(scene, director.blows)
    return figures


def _text(found: Sequence[tuple[str, Figures]], arguments: argparse.Namespace) -> str:
    when = datetime.now(UTC).date().isoformat()
    command = f"make soak SECONDS={arguments.seconds:g} SEED={arguments.seed}"
    versions = [version for version, _ in found]
    came_to = zip(*(list(figures.lines()) for _, figures in found), strict=True)
    table = [(row[0][0], *(value for _, value in row)) for row in came_to]
    names = sorted({name for _, figures in found for name in figures.faults})
    kinds = [(name, *(str(figures.faults[name]) for _, figures in found)) for name in names]
    said = f"Run {when} with `{command}`; each etcd had its share of the time. Timing: {arguments.timing}."
    return "\n".join([said, "", *_table(("", *versions), table), "", *_table(("fault", *versions), kinds)])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ("---", *("---:" for _ in head[1:]))
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def _write(text: str) -> None:
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def _version(binary: str) -> str:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return f"etcd {said.split()[2]}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600, help="how long faults are put in (default 3600)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="draws the faults")
    parser.add_argument("--etcd", metavar="PATH", action="append", help="an etcd to run; may be repeated")
    parser.add_argument("--short", action="store_true", help="at the short timing of the tests")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {DOCUMENT.name}")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
