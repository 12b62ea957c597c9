"""One performance of the demo: a private etcd, the stage on it, the story, and what it came to.

Nothing is left behind however it ends: in order, by Ctrl-C, by a failure, or by SIGKILL (see `machine` and the private
etcd's keeper, which both end with this process).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.console import Console

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.demo.figures import Figures
from etcdlock.demo.proxy import Cut
from etcdlock.demo.stage import Stage, set_up
from etcdlock.demo.story import Story
from etcdlock.demo.timeline import Timeline, now
from etcdlock.demo.verdict import NotSo

TITLE: Final = "etcdlock demo: two hosts, one disk, one winner"
INTRO: Final = (
    "A and B are two hosts, here real processes, each with its own network to a private etcd. Both run the same guest "
    "under 'etcdlock run'; the guest writes to one disk. Seconds count from the start."
)


@dataclass(frozen=True, slots=True)
class Performance:
    """Whether all of it was so, and the timeline and figures as one document."""

    ok: bool
    document: dict[str, Any]


def perform(*, cut: Cut, quiet: bool, sabotage: Callable[[Stage], Stage] = lambda stage: stage) -> Performance:
    """Play it through. `sabotage` may spoil the stage, to see that this is noticed."""
    timeline = Timeline(Console(highlight=False), quiet=quiet)
    timeline.open(TITLE, INTRO)
    with timeline.waiting("starting a private etcd"):
        etcd = EmbeddedEtcd()
    with etcd:
        failure, figures = asyncio.run(_play(etcd, timeline, cut=cut, sabotage=sabotage))
    seconds = timeline.since_start(now())
    if failure is None:
        timeline.close(f"All of it was so, shown in {seconds:.0f} s:", figures.in_words(), good=True)
    else:
        timeline.close(f"Not so, in step {timeline.step}: {failure}", good=False)
    return Performance(failure is None, _document(timeline, figures, failure, seconds=seconds))


async def _play(
    etcd: EmbeddedEtcd, timeline: Timeline, /, *, cut: Cut, sabotage: Callable[[Stage], Stage]
) -> tuple[str | None, Figures]:
    """What was not so, or None; and what was measured until then."""
    port = int(etcd.endpoints[0].rpartition(":")[2])
    figures = Figures()
    try:
        async with set_up(port, folder=etcd.folder) as stage:
            await Story(sabotage(stage), timeline, figures=figures, cut=cut).play()
    except NotSo as not_so:
        return str(not_so), figures
    return None, figures


def _document(timeline: Timeline, figures: Figures, failure: str | None, /, *, seconds: float) -> dict[str, Any]:
    steps, entries = timeline.documents()
    return {
        "ok": failure is None,
        "failure": failure,
        "seconds": round(seconds, 3),
        "steps": steps,
        "timeline": entries,
        "figures": asdict(figures),
    }
