"""The doors of a host's agent, opened and closed together: libvirt's, and the API for all other programs."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
from typing import TYPE_CHECKING

from etcdlock.adapters.flight_record import read_or_say_why
from etcdlock.adapters.machine import pid_namespace
from etcdlock.agent.requests import Requests
from etcdlock.agent.shadow_naming import ShadowChains, ShadowNamer
from etcdlock.agent.shadow_requests import ShadowRequests
from etcdlock.agent.view import View
from etcdlock.api import events, metrics, scrape
from etcdlock.api.app import create_app
from etcdlock.api.peer import Rules
from etcdlock.api.server import ApiServer
from etcdlock.errors import InvalidSetting
from etcdlock.journal import note
from etcdlock.libvirt.server import Door
from etcdlock.libvirt.sockets import listen
from etcdlock.wiring import chains, credential_files, naming, record_places

if TYPE_CHECKING:
    from etcdlock.adapters.etcd import EtcdStore
    from etcdlock.agent.context import Context
    from etcdlock.agent.host import HostAgent
    from etcdlock.agent.namer import Namer
    from etcdlock.agent.shadow import Shadow
    from etcdlock.api.behind import Domains
    from etcdlock.config import Settings
    from etcdlock.ports import Processes

DOOR_BEHIND_SECONDS = 1.0
"""How much longer the doors wait than the agent, whose own words say more than that time is up."""


class Doors:
    """Raises `InvalidSetting` when made with a group that does not exist. A `shadow` answers for the agent."""

    def __init__(
        self,
        settings: Settings,
        agent: HostAgent,
        context: Context,
        /,
        *,
        processes: Processes,
        store: EtcdStore,
        namer: Namer,
        shadow: Shadow | None = None,
    ) -> None:
        self._settings = settings
        ends = {file.setting: file.not_after for file in credential_files(settings) if file.not_after is not None}
        self._metrics = metrics.Metrics(agent, context, endpoint=lambda: store.endpoint, certificates=ends)
        self._counting = contextlib.ExitStack()
        self._feed = events.Feed()
        wait_seconds = settings.acquire_seconds + DOOR_BEHIND_SECONDS
        self._libvirt = Door(shadow or agent, uid=os.getuid(), acquire_seconds=wait_seconds)
        below, locking = chains(settings), namer
        if shadow is not None:
            locking = ShadowNamer(naming(settings), findings=shadow.findings)
            below = None if below is None else ShadowChains(below, findings=shadow.findings)
        app = create_app(
            _domains(settings, agent, context, processes=processes, shadow=shadow),
            View(
                agent,
                context,
                name=settings.cluster,
                endpoint=lambda: store.endpoint,
                answer_seconds=settings.acquire_seconds,
                record=lambda: read_or_say_why(record_places(settings)),
                place={"endpoints": list(settings.endpoints), "pid_namespace": pid_namespace()},
            ),
            namer=locking,
            views_namer=namer,
            chains=below,
            readonly_disks=settings.readonly_disks,
            answer_seconds=wait_seconds,
            extra_routers=(self._feed.router(), metrics.router(self._metrics)),
        )
        rules = Rules(os.getuid(), _group(settings.api_group))
        self._api = ApiServer(app, rules=rules, answer_seconds=wait_seconds)
        everybody = scrape.Everybody(os.getuid())
        self._scrape = ApiServer(scrape.application(self._metrics), rules=everybody, answer_seconds=wait_seconds)
        self._counting.enter_context(metrics.counting(self._metrics))  # joining counts, too

    async def open(self) -> None:
        """Once every guest of an earlier agent is known. Raises `SocketInUse` and `InvalidSetting`."""
        await self._libvirt.open(listen(self._settings.lock_socket))
        if self._settings.backing_chain != "none":
            what = "libvirt names no image below a disk: its guests do not lock their templates (docs/IDENTITY.md)"
            note("libvirt_locks_no_chains", level=logging.WARNING, warning=what)
        await self._api.open(listen(self._settings.api_path))
        await self._open_scrape()

    async def close(self) -> None:
        """Before anything else ends. What has been asked is answered."""
        self._feed.end()
        await asyncio.gather(self._libvirt.close(), self._api.close(), self._scrape.close())
        self._counting.close()

    async def _open_scrape(self) -> None:
        """Guests do not die of a port that somebody else has: the agent goes on, and says that nobody can read it."""
        place = self._settings.metrics_listen
        if not place:
            return
        try:
            await self._scrape.open(scrape.listen_at(place))
        except InvalidSetting as error:
            note("metrics_not_served", level=logging.ERROR, reason=str(error))


def _domains(
    settings: Settings, agent: HostAgent, context: Context, /, *, processes: Processes, shadow: Shadow | None
) -> Domains:
    """Who is asked for guests."""
    requests = Requests(
        agent,
        context,
        processes=processes,
        answer_seconds=settings.acquire_seconds,
        knows_command=bool(settings.on_session_lost_command),
    )
    if shadow is None:
        return requests
    return ShadowRequests(
        requests, shadow, agent, context, processes=processes, wait_seconds=settings.acquire_seconds
    )


def _group(name: str, /) -> int | None:
    """By its name here, or its number: an agent in a container knows other names than its host."""
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid if name else None
    except KeyError:
        raise InvalidSetting(f"api_group: there is no group {name!r} on this host") from None
