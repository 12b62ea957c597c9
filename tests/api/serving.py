"""Hosts whose agents serve their API on real sockets: the agents and etcd are in one event loop, in a thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from etcdlock.agent.chains import Chains
from etcdlock.agent.namer import Namer
from etcdlock.agent.requests import Requests
from etcdlock.agent.view import View
from etcdlock.api.app import create_app
from etcdlock.api.behind import Domains
from etcdlock.api.bounds import Bounds
from etcdlock.api.client import AgentClient
from etcdlock.api.peer import Rules
from etcdlock.api.server import ApiServer
from etcdlock.identity import Naming
from etcdlock.libvirt.sockets import listen
from etcdlock.model import DomainId, Owner, Resource, SessionKind
from etcdlock.testing import FakeGuest
from tests.promises.hypervisor import Hypervisor
from tests.promises.world import World

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI

T = TypeVar("T")
ANSWER_SECONDS = 10.0
LONGEST_SECONDS = 30.0


def application(
    hypervisor: Hypervisor,
    *,
    domains: Domains | None = None,
    answer_seconds: float = ANSWER_SECONDS,
    chains: Chains | None = None,
    extra_routers: tuple[APIRouter, ...] = (),
) -> FastAPI:
    """The API of a host's agent."""
    agent, host, world = hypervisor.agent, hypervisor.host, hypervisor.world
    assert agent is not None
    context = host.context(contract=world.contract, chance=world.fresh_chance(), kind=SessionKind.AGENT)
    view = View(agent, context, name="default", endpoint=lambda: "etcd:2379", answer_seconds=answer_seconds)
    return create_app(
        domains or requests_of(hypervisor, answer_seconds=answer_seconds),
        view,
        namer=Namer(Naming()),
        chains=chains,
        readonly_disks="none",
        answer_seconds=answer_seconds,
        extra_routers=extra_routers,
    )


def requests_of(hypervisor: Hypervisor, *, answer_seconds: float = ANSWER_SECONDS) -> Requests:
    """Behind the API."""
    agent, host, world = hypervisor.agent, hypervisor.host, hypervisor.world
    assert agent is not None
    context = host.context(contract=world.contract, chance=world.fresh_chance(), kind=SessionKind.AGENT)
    return Requests(agent, context, processes=hypervisor.processes, answer_seconds=answer_seconds)


@dataclass(slots=True)
class ApiHost:
    """One host, and a client of its API."""

    hypervisor: Hypervisor
    server: ApiServer
    path: str
    serving: Serving
    client: AgentClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = AgentClient(self.path)

    def start(self, who: DomainId, *opened: Resource) -> tuple[Owner, FakeGuest]:
        """A process that exists and has these open."""

        async def start() -> FakeGuest:
            guest = self.hypervisor.processes.start()
            for disk in opened:
                self.hypervisor.processes.open(guest, disk)
            return guest

        guest = self.serving.call(start())
        return Owner(who, guest.pid), guest

    def end(self, guest: FakeGuest) -> None:
        """Its process ends."""
        self.serving.soon(guest.end)


class Serving:
    """The thread. Everything in it is ended when the block ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.hosts: list[ApiHost] = []
        self.world = self.call(self._world())

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it in the thread's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(LONGEST_SECONDS)

    def soon(self, deed: Callable[[], None]) -> None:
        """The same for what does not wait."""

        async def do() -> None:
            deed()

        self.call(do())

    def host(
        self, name: str, *, rules: Rules | None = None, bounds: Bounds | None = None, **options: Any
    ) -> ApiHost:
        """A host that serves; only this process's user may do everything unless `rules` say otherwise."""
        rules = rules or Rules(os.getuid())
        path = str(self.folder / f"{name}.sock")
        hypervisor = self.call(self._hypervisor(name))
        server = self.call(self._serve(hypervisor, path, rules, bounds, options))
        self.hosts.append(ApiHost(hypervisor, server, path, self))
        return self.hosts[-1]

    async def _world(self) -> World:
        return World()

    async def _hypervisor(self, name: str) -> Hypervisor:
        made = Hypervisor(self.world, self.world.host(name))
        await made.bring_up()
        return made

    async def _serve(
        self, hypervisor: Hypervisor, path: str, rules: Rules, bounds: Bounds | None, options: dict[str, Any]
    ) -> ApiServer:
        app = application(hypervisor, **options)
        server = ApiServer(app, rules=rules, answer_seconds=ANSWER_SECONDS, bounds=bounds)
        await server.open(listen(path))
        return server

    def end(self) -> None:
        """Close every server, then end every program."""
        for host in self.hosts:
            self.call(host.server.close())
        self.call(self.world.end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(LONGEST_SECONDS)
        self.loop.close()


@contextmanager
def serving(folder: Path) -> Iterator[Serving]:
    """For the length of a block."""
    made = Serving(folder)
    try:
        yield made
    finally:
        made.end()
