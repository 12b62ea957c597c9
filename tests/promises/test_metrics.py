"""What an agent's metrics say is what it is and what has happened to it."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from etcdlock.agent.host import HostAgent
from etcdlock.api.metrics import COUNTED, TIMED, Metrics, counting, names, router
from etcdlock.cli.backlog import DROPPED
from etcdlock.errors import EtcdlockError, HeldElsewhere
from etcdlock.journal import Journal
from etcdlock.model import Mode, SessionKind
from etcdlock.testing import FakeProcesses, Fault
from tests.promises.conftest import Play
from tests.promises.hypervisor import Hypervisor, hypervisor
from tests.promises.test_host_doubt import unheard
from tests.promises.world import World, disk, domain

VM, OTHER = domain(1), domain(2)
X, Y = disk("x"), disk("y")
SHARED = disk("z", Mode.SHARED)
FIELDS = ("seconds", "lines", "reason", "proof", "other")
PAGE = Path(__file__).parents[2].joinpath("docs", "METRICS.md").read_text(encoding="utf-8")

Numbers = Mapping[str, float]
Watched = Callable[[World, Hypervisor, Callable[[], Numbers]], Coroutine[Any, Any, None]]


def metrics_of(agent: HostAgent | None, world: World, name: str = "a") -> Metrics:
    assert agent is not None
    context = world.host(name).context(contract=world.contract, chance=world.chance, kind=SessionKind.AGENT)
    return Metrics(agent, context, endpoint=lambda: "etcd-1:2379")


def repr_in_short(odd: object) -> str:
    return ascii(odd)[:10]


def idle_metrics(world: World) -> Metrics:
    """Of an agent that has not been started."""
    context = world.host("a").context(contract=world.contract, chance=world.chance, kind=SessionKind.AGENT)
    return metrics_of(HostAgent(context, processes=FakeProcesses(), acquire_seconds=1.0, join_seconds=1.0), world)


def read(metrics: Metrics) -> Numbers:
    """Samples as a person would write them: `etcdlock_locks{mode=shared,state=held}`."""
    return {
        sample.name + (f"{{{','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()))}}}" if sample.labels else "")
        : sample.value
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
    }  # fmt: skip


def watched(scenario: Watched) -> Callable[[World], Coroutine[Any, Any, None]]:
    """With the host a, and its metrics when they are asked for."""

    async def run(world: World) -> None:
        a = await hypervisor(world, "a")
        metrics = metrics_of(a.agent, world)
        with counting(metrics):
            await scenario(world, a, lambda: read(metrics))

    return run


def test_locks_are_counted_by_mode_and_state_and_guests_by_head(play: Play) -> None:
    async def scenario(_world: World, a: Hypervisor, numbers: Callable[[], Numbers]) -> None:
        await a.start(VM, X, Y, SHARED)
        rests = await a.start(OTHER, disk("o"))
        a.pause(rests)
        await asyncio.sleep(1.0)
        now = numbers()
        assert now["etcdlock_guests"] == 2
        assert (now["etcdlock_domains{state=held}"], now["etcdlock_domains{state=parked}"]) == (1, 1)
        assert now["etcdlock_locks{mode=exclusive,state=held}"] == 2
        assert now["etcdlock_locks{mode=shared,state=held}"] == 1
        assert now["etcdlock_locks{mode=exclusive,state=parked}"] == 1
        assert now["etcdlock_locks{mode=shared,state=parked}"] == 0
        await a.resume(rests)
        rests.guest.end()
        await asyncio.sleep(1.0)
        now = numbers()
        assert (now["etcdlock_guests"], now["etcdlock_domains{state=parked}"]) == (1, 0)
        assert (now["etcdlock_parks_total"], now["etcdlock_unparks_total"]) == (1, 1)
        assert (now["etcdlock_releases_total"], now["etcdlock_guests_gone_total"]) == (1, 1)

    play(watched(scenario))


def test_a_yes_and_a_no_are_counted_and_timed_and_a_no_says_why(play: Play) -> None:
    async def scenario(world: World, a: Hypervisor, numbers: Callable[[], Numbers]) -> None:
        b = await hypervisor(world, "b")
        await b.start(OTHER, X)
        before = numbers()
        with pytest.raises(HeldElsewhere):
            await a.start(VM, Y, X)
        now = numbers()
        assert now["etcdlock_acquires_total"] - before["etcdlock_acquires_total"] == 1
        assert now["etcdlock_refusals_total{reason=HeldElsewhere}"] == 1
        assert now["etcdlock_refusal_seconds_count"] == 1
        assert now["etcdlock_acquire_seconds_count"] == now["etcdlock_acquires_total"]
        assert 0 < now["etcdlock_acquire_seconds_sum"] < 0.1

    play(watched(scenario))


def test_a_migration_is_a_park_and_a_claim(play: Play) -> None:
    async def scenario(world: World, a: Hypervisor, numbers: Callable[[], Numbers]) -> None:
        b = await hypervisor(world, "b")
        await a.migrate(await a.start(VM, X), b)
        now = numbers()
        assert (now["etcdlock_parks_total"], now["etcdlock_claims_total"]) == (1, 1)
        assert now["etcdlock_hand_backs_total"] == 0

    play(watched(scenario))


def test_the_seconds_to_stop_fall_while_etcd_is_away_and_then_guests_are_stopped(play: Play) -> None:
    async def scenario(world: World, a: Hypervisor, numbers: Callable[[], Numbers]) -> None:
        await a.start(VM, X)
        await asyncio.sleep(7.0)
        well = numbers()
        assert world.timing.stop_after_seconds - 3 < well["etcdlock_seconds_to_stop"] <= world.timing.stop_after_seconds
        assert (well["etcdlock_session_phase{phase=live}"], well["etcdlock_session_phase{phase=lost}"]) == (1, 0)
        assert well["etcdlock_heartbeat_failures_total"] == 0
        assert well["etcdlock_heartbeats_total"] == well["etcdlock_heartbeat_seconds_count"] >= 3
        a.host.store.cut()
        await asyncio.sleep(6.0)
        away = numbers()
        assert away["etcdlock_seconds_to_stop"] < well["etcdlock_seconds_to_stop"] - 3
        assert away["etcdlock_session_phase{phase=suspect}"] == 1
        assert away["etcdlock_heartbeat_failures_total"] >= 1
        await asyncio.sleep(20.0)
        gone = numbers()
        assert gone["etcdlock_seconds_to_stop"] < 0
        assert gone["etcdlock_session_phase{phase=lost}"] == 1
        assert gone["etcdlock_guests_stopped_total"] == 1

    play(watched(scenario))


def test_a_session_that_is_lost_and_joined_anew_shows(play: Play) -> None:
    async def scenario(world: World, a: Hypervisor, numbers: Callable[[], Numbers]) -> None:
        await a.start(VM, X)
        world.etcd.revoke_wrongly(world.leases(a.host)[0])
        await asyncio.sleep(5.0)
        now = numbers()
        assert now["etcdlock_sessions_lost_total"] == 1
        assert now["etcdlock_sessions_joined_total"] == 1
        assert now["etcdlock_rejoins_total"] == 1
        assert now["etcdlock_session_phase{phase=live}"] == 1

    play(watched(scenario))


def test_an_answer_that_is_lost_shows_until_it_is_settled(play: Play) -> None:
    async def scenario(_world: World, a: Hypervisor, numbers: Callable[[], Numbers]) -> None:
        vm = await a.start(VM, X)
        a.pause(vm)
        await unheard(a, Fault.LATE, late=1.71)
        assert numbers()["etcdlock_outcomes_unsettled"] == 1
        await asyncio.sleep(5.0)
        now = numbers()
        assert (now["etcdlock_outcomes_unsettled"], now["etcdlock_outcomes_unknown_total"]) == (0, 1)

    play(watched(scenario))


def test_what_is_taken_from_a_dead_host_is_counted_by_the_proof(play: Play) -> None:
    async def scenario(world: World, a: Hypervisor, numbers: Callable[[], Numbers]) -> None:
        b = await hypervisor(world, "b")
        await b.start(OTHER, X, Y)
        a_vm = await a.start(VM, disk("own"))
        for vm in b.vms:
            vm.guest.kill()
        b.kill_agent()
        b.host.store.cut()
        for _ in range(60):
            await asyncio.sleep(1.0)
            try:
                await a.plug(a_vm, X)
            except EtcdlockError:
                continue
            break
        now = numbers()
        assert now["etcdlock_obituaries_written_total{proof=silence}"] == 1
        assert now["etcdlock_takeovers_total{proof=silence}"] == 1

    play(watched(scenario))


def test_before_there_is_a_session_there_is_no_deadline_to_show(play: Play) -> None:
    async def scenario(world: World) -> None:
        now = read(idle_metrics(world))
        assert now["etcdlock_session_phase{phase=joining}"] == 1
        assert now["etcdlock_ready"] == 0
        assert "etcdlock_seconds_to_stop" not in now
        assert now["etcdlock_etcd_endpoint_info{endpoint=etcd-1:2379}"] == 1

    play(scenario)


def test_the_page_is_served_as_prometheus_reads_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        app = FastAPI()
        app.include_router(router(metrics_of(a.agent, world)))
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": [], "query_string": b""}
        await app(scope, receive, send)
        start, body = sent
        assert start["status"] == 200
        assert dict(start["headers"])[b"content-type"].startswith(b"text/plain")
        assert b"etcdlock_ready 1.0\n" in body["body"]

    play(scenario)


@pytest.mark.parametrize(
    "odd", [None, True, False, -1, 10**400, float("nan"), float("inf"), -0.5, "", "\udcff", 'a"\n}', b"x", object()],
    ids=repr_in_short,
)
def test_whatever_an_event_carries_counting_it_never_fails_and_the_page_can_be_sent(play: Play, odd: object) -> None:
    async def scenario(world: World) -> None:
        journal, metrics = Journal(), idle_metrics(world)
        with counting(metrics, journal=journal):
            for counted in COUNTED:
                journal.add(counted.event, level=logging.INFO, fields={})
                journal.add(counted.event, level=logging.INFO, fields=dict.fromkeys(FIELDS, odd))
        assert read(metrics)["etcdlock_claims_total"] == 2

    play(scenario)


def test_counting_ends_when_it_is_told_to(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        metrics = metrics_of(a.agent, world)
        with counting(metrics):
            pass
        await a.start(VM, X)
        assert read(metrics)["etcdlock_acquires_total"] == 0

    play(scenario)


def test_every_metric_is_documented_and_every_documented_metric_exists() -> None:
    rows = re.findall(r"^\| `(etcdlock_\w+)", PAGE, flags=re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == names()


@pytest.mark.parametrize("file", ["prometheus/etcdlock.rules.yml", "grafana/etcdlock.json"])
def test_every_metric_that_an_alert_or_a_panel_watches_exists(file: str) -> None:
    text = Path(__file__).parents[2].joinpath("deploy", file).read_text(encoding="utf-8")
    watched_names = set(re.findall(r"etcdlock_\w+", text))
    assert len(watched_names) > 5
    suffix = re.compile(r"_(count|sum|bucket)$")
    assert {suffix.sub("", name) for name in watched_names} <= names()


def test_no_event_is_counted_twice_and_none_that_nothing_notes() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in Path("etcdlock").rglob("*.py"))
    noted = set(re.findall(r'(?:note\(\s*|Stage\.\w+: )"(\w+)"', sources)) | {"released", "handed_back", DROPPED}
    assert len({counted.event for counted in COUNTED}) == len(COUNTED)
    assert {one.event for one in (*COUNTED, *TIMED)} <= noted
