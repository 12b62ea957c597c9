"""The driver `etcd`: a session and a guard of this program's own, for programs that need no agent beside them.

It is the agent itself (`etcdlock.agent`), in a thread of this process: the same session, ledger, guard and restart.
When this process ends, its guests keep their locks, and the guard stops them at their deadline unless the driver is
loaded again on this boot before that. A host has one program with this driver; a lock on a file sees to it.

After a fork without an exec the child has no driver: what it asks is refused. `subprocess` and `os.posix_spawn` do not
concern it.
"""

from __future__ import annotations

import asyncio
import atexit
import os
from collections.abc import Callable, Coroutine, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from etcdlock.driver.facade import Facade
from etcdlock.driver.plugin import Capability, Driver, Lock, Opening
from etcdlock.errors import Refused
from etcdlock.model import LockState, Owner, Resource, SessionKind, StoredDomain

if TYPE_CHECKING:
    from typing import Self

    from etcdlock.agent.requests import Requests
    from etcdlock.config import Settings
    from etcdlock.identity import Chain, Link, ResourceName

FOLDER = "driver"
_BEHIND_SECONDS = 1.0


class EtcdDriver(Driver):
    """The facade before the agent's own requests."""

    name = "etcd"
    capabilities = frozenset(Capability)
    cannot_protect = (
        "Writes that were handed to the kernel, the network or the storage before a guest was stopped: use cache=none.",
        "Guests of this program for longer than the hold-off allows once it has ended and is not started again.",
    )

    @classmethod
    def open(cls, opening: Opening, /) -> Self:
        """Join the cluster, or go on with what this host's program before held. Raises what joining raises."""
        opening.expect_no_options(cls.name)
        driver = cls(opening.settings.for_real())  # only the agent has a shadow mode
        driver._start()
        return driver

    def __init__(self, settings: Settings, /) -> None:
        from etcdlock.wiring import agent_host_id, chains, namer

        self._settings = settings.model_copy(update={"host_id": agent_host_id(settings, uid=os.geteuid())})
        self._names = namer(self._settings)
        self._chains = chains(self._settings)
        answer_seconds = settings.acquire_seconds + _BEHIND_SECONDS
        self._facade = Facade(
            self.name, answer_seconds=answer_seconds, close_seconds=settings.acquire_seconds + settings.answer_seconds
        )
        self._requests: Requests | None = None
        self._see_to: Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]] | None = None
        self._alone = ExitStack()
        self._descriptor = -1

    def _start(self) -> None:
        from etcdlock.adapters.alone import only_agent

        folder = str(Path(self._settings.run_folder) / FOLDER)
        self._descriptor = self._alone.enter_context(only_agent(folder, called="program with the driver 'etcd'"))
        _open.add(self)
        try:
            self._facade.start(lambda ready, told: self._main(folder, ready, told))
        except BaseException:
            self._be_alone_no_more()
            raise
        atexit.register(self._facade.close)

    async def _main(self, folder: str, ready: Callable[[], None], told: asyncio.Event, /) -> None:
        from etcdlock.agent.requests import Requests
        from etcdlock.api.desk import Desk
        from etcdlock.hosting import open_host

        settings = self._settings
        async with open_host(settings, kind=SessionKind.DRIVER, folder=folder) as host:
            self._requests = Requests(
                host.agent, host.context, processes=host.processes, answer_seconds=settings.acquire_seconds
            )
            self._see_to = Desk(answer_seconds=settings.acquire_seconds + _BEHIND_SECONDS).see_to

            async def serve() -> None:
                await host.agent.ready.wait()
                ready()
                await host.succeed()
                await asyncio.Event().wait()  # what ends here has failed

            await host.keep(serve(), told=told, before_end=_nothing)

    def close(self) -> None:
        """In order: a session without guests is left at once, one with guests stands until the next goes on with it."""
        atexit.unregister(self._facade.close)
        self._facade.close()
        self._be_alone_no_more()

    def _be_alone_no_more(self) -> None:
        _open.discard(self)
        self._alone.close()

    def after_fork(self) -> None:
        """In the child: it must not hold the lock for a parent that has ended. Everything else is refused here."""
        os.close(self._descriptor)

    @property
    def host(self) -> str:
        """As the locks name it."""
        from etcdlock.wiring import host_id

        return host_id(self._settings)

    def identify(self, path: str, /) -> ResourceName:
        """By the cluster's rule."""
        return self._names.name_now(path)

    @property
    def locks_readonly_disks(self) -> bool:
        """By the cluster's rule."""
        return self._settings.readonly_disks == "shared"

    @property
    def locks_chains(self) -> bool:
        """By the cluster's rule."""
        return self._chains is not None

    def below(self, links: Iterable[Link], /) -> dict[Link, Chain]:
        """As their headers say."""
        return super().below(links) if self._chains is None else self._chains.below_now(links)

    # --- calls -----------------------------------------------------------------------------------------------------

    def acquire(self, owner: Owner, resources: tuple[Resource, ...], /) -> Lock:
        return self._do(lambda requests: requests.acquire(owner, resources))

    def adopt(self, owner: Owner, resources: tuple[Resource, ...], /) -> Lock:
        return self._do(lambda requests: requests.attach(owner, resources))

    def release(self, owner: Owner, /) -> None:
        self._ask(lambda requests: requests.release(owner.domain.uuid))

    def inquire(self, uuid: UUID, /) -> Lock | None:
        stored = self._ask(lambda requests: requests.find(uuid))
        return None if stored is None else self._lock(stored)

    def suspend(self, owner: Owner, /) -> Lock:
        return self._do(lambda requests: requests.park(owner.domain.uuid))

    def resume(self, owner: Owner, /) -> Lock:
        return self._do(lambda requests: requests.unpark(owner.domain.uuid))

    def add(self, owner: Owner, resource: Resource, /) -> Lock:
        return self._do(lambda requests: requests.add(owner.domain.uuid, resource))

    def remove(self, owner: Owner, resource: Resource, /) -> Lock:
        return self._do(lambda requests: requests.remove(owner.domain.uuid, resource))

    def incoming(self, owner: Owner, resources: tuple[Resource, ...], /, *, run: str) -> Lock:
        return self._do(lambda requests: requests.incoming(owner, resources, run=run))

    def complete_incoming(self, owner: Owner, /) -> Lock:
        return self._do(lambda requests: requests.incoming_complete(owner.domain.uuid))

    def cancel_incoming(self, owner: Owner, /) -> None:
        self._ask(lambda requests: requests.incoming_cancel(owner.domain.uuid))

    def complete_outgoing(self, owner: Owner, /) -> None:
        self._ask(lambda requests: requests.complete(owner.domain.uuid))

    def reserve(self, owner: Owner, resources: tuple[Resource, ...], /) -> Lock:
        if owner.pid == os.getpid():
            raise Refused(
                "a program with the driver 'etcd' cannot reserve for itself: at a lost session what holds a "
                "reservation is killed, with all that it has started",
                hint="reserve for the process that uses the disks",
            )
        return self._do(lambda requests: requests.acquire(owner, resources))

    def unreserve(self, owner: Owner, /) -> None:
        self._ask(lambda requests: requests.give_back(owner))

    def _do(self, work: Callable[[Requests], Coroutine[Any, Any, StoredDomain]], /) -> Lock:
        return self._lock(self._ask(work))

    def _ask(self, work: Callable[[Requests], Coroutine[Any, Any, Any]], /) -> Any:
        requests, see_to = self._requests, self._see_to
        if requests is None or see_to is None:
            raise RuntimeError("the driver has not been opened")
        return self._facade.ask(lambda: see_to(work(requests)))

    def _lock(self, stored: StoredDomain, /) -> Lock:
        record = stored.record
        return Lock(
            uuid=record.domain.uuid,
            name=record.domain.name,
            held=record.owner.host == self.host and record.owner.session.startswith(SessionKind.DRIVER),
            host=record.owner.host,
            state=LockState(record.state),
            token=stored.token,
            run=record.run,
            pid=record.pid,
            since=record.since,
            resources=record.resources,
        )


async def _nothing() -> None:
    """Nobody is let in who would have to be sent away."""


def _after_fork() -> None:
    for driver in tuple(_open):
        driver.after_fork()
    _open.clear()


_open: set[EtcdDriver] = set()
os.register_at_fork(after_in_child=_after_fork)
