"""What it costs to keep a host's session, with one guest and with 1,000, in messages to etcd and processor time.

Nothing is asked meanwhile. Messages are etcd's own count of what it has received over gRPC from its one client.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks.agent_size import GUESTS, take_disks
from benchmarks.crowd import crowd
from benchmarks.lock_servers import agent
from benchmarks.measure import Spread
from benchmarks.processes import cpu_seconds
from benchmarks.report import Row, Section
from etcdlock.adapters.embedded import EmbeddedEtcd
from tests.contract.etcds import metrics

TIMES = 5
SECONDS = 20.0
CALM_SECONDS = 5.0
AS_MANY, AS_MUCH = 1.05, 1.1
"""The goal is the same; so much is the grain of what is counted."""
_RECEIVED = "grpc_server_msg_received_total"


@dataclass(frozen=True, slots=True)
class Cost:
    """Messages a second and processor time in per cent, as often as they were measured."""

    messages: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def section(binary: str, /) -> Section:
    costs = {count: _cost(binary, guests=count) for count in (1, GUESTS)}
    one, many = costs[1], costs[GUESTS]
    against = f"{GUESTS:,} guests against one"
    rows = [
        *(Row(f"messages to etcd, {n:,} guest(s)", Spread.of(each.messages), "/s") for n, each in costs.items()),
        *(Row(f"agent's processor time, {n:,} guest(s)", Spread.of(each.cpu), "% of one") for n, each in costs.items()),
        Row(f"messages, {against}", _ratio(many.messages, one.messages), "×", AS_MANY),
        Row(f"processor time, {against}", _ratio(many.cpu, one.cpu), "×", AS_MUCH),
    ]
    return Section("Keeping a host's session", rows, counts=f"median of {TIMES}")


def _cost(binary: str, *, guests: int) -> Cost:
    cost = Cost()
    with (
        EmbeddedEtcd(binary, durable=True) as etcd,
        TemporaryDirectory() as folder,
        agent(etcd.endpoints[0], Path(folder) / "agent") as ours,
        crowd(ours.path, guests) as started,
    ):
        asyncio.run(take_disks(ours.path, started))
        time.sleep(CALM_SECONDS)
        for _ in range(TIMES):
            begun, messages, used = perf_counter(), _messages(etcd.endpoints[0]), cpu_seconds(ours.pid)
            time.sleep(SECONDS)
            seconds = perf_counter() - begun
            cost.messages.append((_messages(etcd.endpoints[0]) - messages) / seconds)
            cost.cpu.append(100 * (cpu_seconds(ours.pid) - used) / seconds)
    return cost


def _messages(endpoint: str) -> float:
    return sum(number for name, number in metrics(endpoint).items() if name.startswith(_RECEIVED))


def _ratio(some: list[float], others: list[float]) -> Spread:
    return Spread.of([one / other for one, other in zip(some, others, strict=True)])
