"""Guests that are watched and never touched: all that an agent in shadow mode has of its host's processes.

Guaranteed: nothing that is done to a guest through what is here reaches its process. It is told of, and no more: there
is neither a handle that another program could use nor a call that sends a signal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from etcdlock.model import DomainId, Resource
from etcdlock.ports import ExitStatus, Guest, GuestName, Processes

LOCK_LOST = "lock lost"
"""Another has its lock, or it could not be taken over from an earlier agent."""

Told = Callable[[GuestName, str], None]
"""Hears which guest would have been stopped, and why."""


class Bystander(Guest):
    """A guest as it is seen; to kill or freeze it is to say so."""

    def __init__(self, seen: Guest, /, *, told: Told) -> None:
        self._seen = seen
        self._told = told

    @property
    def pid(self) -> int:
        """As this host sees it."""
        return self._seen.pid

    @property
    def pid_start(self) -> int:
        """In clock ticks since boot."""
        return self._seen.pid_start

    @property
    def pidfd(self) -> int:
        """No handle is given on."""
        return -1

    def open_gate(self, *, token: int) -> None:
        """Whoever started it lets it run."""

    def signal(self, number: int, /) -> None:
        """Not sent."""

    def kill(self) -> None:
        """Told."""
        self._told((self.pid, self.pid_start), LOCK_LOST)

    def freeze(self) -> None:
        """Told."""
        self.kill()

    def stands(self) -> bool:
        """Nobody has stopped it."""
        return False

    def go_on(self) -> None:
        """It has never been stopped."""

    async def gone(self) -> ExitStatus:
        """When it ends by itself."""
        return await self._seen.gone()


class Bystanders(Processes):
    """This host's processes, each a bystander."""

    def __init__(self, processes: Processes, /, *, told: Told) -> None:
        self._processes = processes
        self._told = told

    def attach(self, pid: int, /) -> Guest:
        """Raises `NoSuchGuest`."""
        return Bystander(self._processes.attach(pid), told=self._told)

    async def left_behind(self, ended: frozenset[GuestName], /) -> Mapping[GuestName, Guest]:
        """What lives on of guests whose first process has ended."""
        found = await self._processes.left_behind(ended)
        return {name: Bystander(guest, told=self._told) for name, guest in found.items()}

    async def awaits_migration(self, guest: Guest, domain: DomainId, /) -> bool:
        """Whether it takes the domain in from another host."""
        return await self._processes.awaits_migration(guest, domain)

    async def has_open(self, guest: Guest, resource: Resource, /) -> bool:
        """Whether it has that open."""
        return await self._processes.has_open(guest, resource)
