"""The demo does not take its own word: spoil one thing, and it must say what was not so. Everything else is real."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import uuid4

import pytest
from rich.console import Console

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.demo import story as story_module
from etcdlock.demo.figures import Figures
from etcdlock.demo.performance import perform
from etcdlock.demo.proxy import Cut, Proxy
from etcdlock.demo.stage import DOMAIN_XML, SETTINGS, Stage, set_up
from etcdlock.demo.story import Story
from etcdlock.demo.timeline import Timeline, now
from etcdlock.demo.verdict import NotSo
from tests.demo.test_checker import record

WITHIN_SECONDS = 60


def in_another_cluster(stage: Stage) -> Stage:
    """B is set up wrongly: it shares the disk with A, but not the locks."""
    config = stage.disk.with_name("another.toml")
    config.write_text(SETTINGS.replace('cluster = "demo"', 'cluster = "another"'), encoding="utf-8")
    return replace(stage, b=replace(stage.b, config=config))


def with_a_stray_writer(stage: Stage) -> Stage:
    """Somebody wrote to the disk without a lock."""
    stage.disk.write_bytes(stray_record(token=1))
    return stage


def stray_record(*, token: int) -> bytes:
    nanoseconds = int(now() * 1e9)
    return record(token, "C", sequence=0, before=nanoseconds, done=0)


@pytest.mark.parametrize(
    ("sabotage", "complaint"),
    [(in_another_cluster, "B was not refused"), (with_a_stray_writer, "C (token 1) wrote to the disk of A")],
)
def test_what_is_not_so_in_step_two_fails_the_demo(sabotage: Callable[[Stage], Stage], complaint: str) -> None:
    performance = perform(cut=Cut.SILENT, quiet=True, sabotage=sabotage)
    assert not performance.ok
    assert complaint in performance.document["failure"]
    assert [step["number"] for step in performance.document["steps"]] == [1, 2]


def act(
    scene: Callable[[Story, Stage], Awaitable[None]], *, spoil: Callable[[Stage], Stage] = lambda stage: stage
) -> None:
    """Play some steps on a real stage of their own."""
    timeline = Timeline(Console(file=io.StringIO()), quiet=True)

    async def run(etcd: EmbeddedEtcd) -> None:
        port = int(etcd.endpoints[0].rpartition(":")[2])
        async with asyncio.timeout(WITHIN_SECONDS), set_up(port, folder=etcd.folder) as stage:
            spoilt = spoil(stage)
            await scene(Story(spoilt, timeline, figures=Figures(), cut=Cut.SILENT), spoilt)

    with EmbeddedEtcd() as etcd:
        asyncio.run(run(etcd))


def test_a_disk_on_which_owners_overlap_fails_the_last_step() -> None:
    async def scene(story: Story, stage: Stage) -> None:
        owner = await story.start_on_a()
        with stage.disk.open("ab") as disk:
            disk.write(stray_record(token=10**6))
        await owner.written(3, after=now())
        with pytest.raises(NotSo, match=r"C \(token 1000000\) wrote \d+ ms before A \(token \d+\) had ended"):
            await story.judge_disk(owner)

    act(scene)


def with_the_wrong_cable(stage: Stage) -> Stage:
    """What will be cut is not what A is connected by."""
    wrong = Proxy(0)
    wrong.port = stage.a.network.port
    return replace(stage, a=replace(stage.a, network=wrong))


def test_a_guest_that_is_not_stopped_fails_the_third_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story_module, "SLACK_SECONDS", 1.0)

    async def scene(story: Story, _stage: Stage) -> None:
        owner = await story.start_on_a()
        with pytest.raises(NotSo, match=r"the guest of A, cut off, is stopped: that did not happen within 6\.5 s"):
            await story.cut_off_a(owner)

    act(scene, spoil=with_the_wrong_cable)


def with_another_guest_on_b(stage: Stage) -> Stage:
    """B runs another domain with another disk: no conflict, and no part of the story."""
    domain, disk = stage.disk.with_name("another.xml"), stage.disk.with_name("another.raw")
    domain.write_text(DOMAIN_XML.format(uuid=uuid4(), disk=disk), encoding="utf-8")
    disk.touch()
    return replace(stage, b=replace(stage.b, domain=domain, disk=disk))


def test_a_lock_left_behind_fails_the_last_step() -> None:
    async def scene(story: Story, stage: Stage) -> None:
        owner = await story.start_on_a()
        other = await stage.start(stage.b)
        assert await other.says("guest_started"), other.reason()
        with pytest.raises(NotSo, match=r"locks or sessions were left behind in etcd: .*/hosts/B/.*/domains/"):
            await story.judge_disk(owner)

    act(scene, spoil=with_another_guest_on_b)
