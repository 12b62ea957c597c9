"""One look at a cluster: its keys as a survey, and the rules by which that is to be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etcdlock.cli.common import run_async
from etcdlock.cli.exits import Exit
from etcdlock.cli.via import agent_for
from etcdlock.meeting import Purpose
from etcdlock.wiring import open_store

if TYPE_CHECKING:
    from etcdlock.adapters.etcd import EtcdStore
    from etcdlock.config import Settings
    from etcdlock.session import Contract
    from etcdlock.survey import Survey


def look(settings: Settings, /) -> Survey:
    """The whole cluster at one revision, through the agent or one's own way."""
    from etcdlock.survey import take_survey

    agent = agent_for(settings, Purpose.LOOK)
    if agent is not None:
        return take_survey(agent.keys(), keys=settings.keyspace)
    return run_async(_look(settings))


async def _look(settings: Settings, /) -> Survey:
    async with open_store(settings) as store:
        return await look_with(store, settings)


async def look_with(store: EtcdStore, settings: Settings, /) -> Survey:
    """The same over a connection to etcd that is already there."""
    from etcdlock.survey import take_survey

    return take_survey(await store.read(settings.keyspace.everything), keys=settings.keyspace)


def rules_of(survey: Survey, /, *, mine: Contract) -> Contract:
    """What the cluster has agreed on as far as it matters for takeovers; this host's own where nothing can be read."""
    from dataclasses import replace

    from etcdlock.errors import UnsafeTiming
    from etcdlock.timing import Timing

    agreed = survey.contract or {}
    try:
        timing = Timing(**agreed["timing"])
    except (KeyError, TypeError, ValueError, UnsafeTiming):
        return mine
    return replace(mine, timing=timing, takeover_needs=str(agreed.get("takeover_needs", mine.takeover_needs)))


def exit_of(survey: Survey, /) -> Exit:
    """105 if there is a record that could not be read, though everything else was shown."""
    return Exit.CORRUPT if survey.unreadable else Exit.OK
