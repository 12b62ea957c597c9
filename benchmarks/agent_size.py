"""What an agent of a host with 1,000 guests takes: memory, processor time when nothing happens, time to begin anew.

The guests are processes that have announced themselves as libvirt's do (`crowd`) and keep their connection open; each
has two disks, taken as libvirtd takes them. The agent is the program that users run, with the settings it has unless
told otherwise, and its guard beside it. Nothing is compared: the goals are absolute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from uuid import UUID

from benchmarks.crowd import crowd
from benchmarks.lock_client import LockClient
from benchmarks.lock_servers import Agent, agent
from benchmarks.measure import Spread
from benchmarks.processes import cpu_seconds, has_ended, most_resident_bytes, resident_bytes, until
from benchmarks.report import Row, Section
from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.config import load
from etcdlock.transitions import all_domains

GUESTS = 1000
AT_ONCE = 16
"""So many guests are started at the same time."""
TIMES = 3
IDLE_SECONDS = 10.0
CALM_SECONDS = 3.0
MOST_MEGABYTES, MOST_GUARD_MEGABYTES, MOST_CPU_PERCENT = 120.0, 15.0, 1.0
PROMPT_SECONDS = 60.0

KEYS = load(environment={}).keyspace


@dataclass(frozen=True, slots=True)
class Figures:
    """Each as often as it was measured."""

    resident: list[float] = field(default_factory=list)
    guard_resident: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    guard_cpu: list[float] = field(default_factory=list)
    rejoined: list[float] = field(default_factory=list)
    serving: list[float] = field(default_factory=list)
    inherited: list[float] = field(default_factory=list)
    most: list[float] = field(default_factory=list)


def section(endpoint: str, /) -> Section:
    figures = Figures()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        ours = stack.enter_context(agent(endpoint, folder / "agent"))
        empty, small = (resident_bytes(pid) / 1e6 for pid in (ours.pid, ours.guard))
        guests = stack.enter_context(crowd(ours.path, GUESTS))
        asyncio.run(take_disks(ours.path, guests))
        for _ in range(TIMES):
            _look(ours, figures)
            figures.rejoined.append(asyncio.run(_lose_session(endpoint)))
            time.sleep(CALM_SECONDS)
            figures.most.append(most_resident_bytes(ours.pid) / 1e6)
            _begin_anew(ours, figures)
    return _section(empty, small, figures)


def _section(empty: float, small: float, figures: Figures) -> Section:
    many = f"with {GUESTS:,} guests"
    rows = [
        Row("agent's memory, no guest", Spread.of([empty]), "MB"),
        Row(f"agent's memory {many}", Spread.of(figures.resident), "MB", MOST_MEGABYTES),
        Row(f"… at most, while {GUESTS:,} guests joined a new session", Spread.of(figures.most), "MB", MOST_MEGABYTES),
        Row("guard's memory, no guest", Spread.of([small]), "MB", MOST_GUARD_MEGABYTES),
        Row(f"guard's memory {many}", Spread.of(figures.guard_resident), "MB"),
        Row(f"agent's processor time when idle {many}", Spread.of(figures.cpu), "% of one", MOST_CPU_PERCENT),
        Row(f"guard's processor time when idle {many}", Spread.of(figures.guard_cpu), "% of one"),
        Row(f"{GUESTS:,} guests into a new session, from the loss of the old one", Spread.of(figures.rejoined), "s"),
        Row(f"agent killed and started again {many}: until it serves", Spread.of(figures.serving), "s"),
        Row("… and from then until the earlier guard is not needed", Spread.of(figures.inherited), "s"),
    ]
    return Section(f"An agent {many}, 2 disks each", rows, counts=f"median of {TIMES}")


# --- what is measured ---------------------------------------------------------------------------------------------


def _look(ours: Agent, figures: Figures) -> None:
    """Once nothing happens any more."""
    time.sleep(CALM_SECONDS)
    figures.resident.append(resident_bytes(ours.pid) / 1e6)
    figures.guard_resident.append(resident_bytes(ours.guard) / 1e6)
    begun, before, guard_before = perf_counter(), cpu_seconds(ours.pid), cpu_seconds(ours.guard)
    time.sleep(IDLE_SECONDS)
    percent = 100 / (perf_counter() - begun)
    figures.cpu.append(percent * (cpu_seconds(ours.pid) - before))
    figures.guard_cpu.append(percent * (cpu_seconds(ours.guard) - guard_before))


async def _lose_session(endpoint: str) -> float:
    """Revoke its lease; the seconds until the last domain has joined the next one."""
    store = EtcdStore(EtcdOptions((endpoint,)))
    try:
        waiting = {key.key for key in (await store.txn(all_domains(KEYS))).replies[1]}
        sessions = await store.read(KEYS.sessions())
        begun = perf_counter()
        for session in sessions.found:
            await store.revoke(session.lease)
        events = store.watch((KEYS.domains,), after_revision=sessions.revision)
        async with asyncio.timeout(PROMPT_SECONDS), aclosing(events):
            async for event in events:
                waiting.discard(event.key)
                if not waiting:
                    break
        return perf_counter() - begun
    finally:
        await store.close()


def _begin_anew(ours: Agent, figures: Figures) -> None:
    guard = ours.guard
    ours.kill()
    figures.serving.append(ours.start_again())
    figures.inherited.append(until(lambda: has_ended(guard), what="the earlier guard has ended"))


async def take_disks(path: str, guests: Sequence[tuple[int, UUID]]) -> None:
    turns = asyncio.Semaphore(AT_ONCE)

    async def take(pid: int, uuid: UUID) -> None:
        async with turns:
            client = await LockClient.connect(path, pid=pid, uuid=uuid)
            for disk in ("system", "home"):
                await client.take(f"/san/{uuid}-{disk}")
            await client.close()

    await asyncio.gather(*(take(pid, uuid) for pid, uuid in guests))
