"""The guests that live on a host: one process a domain, told apart from all others by pid and start time.

A pid is used again, and so is a domain's UUID; an earlier process of a domain stays its resident until what it held
has been given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

from etcdlock.errors import NoSuchGuest, OutcomeUnknown, Refused
from etcdlock.model import Owner, Resource
from etcdlock.ports import Guest, GuestName, Processes


@dataclass(slots=True, eq=False)
class Resident:
    """A guest of this host. `turn` orders what is done for it.

    `rests` and `closed` say what its doors last said of its vCPUs and of its disks, `paths` what they have called them
    (`known_paths`); `arrives`, that it has the locks of
    a guest that migrates in and has not been let run; `gone`, that its process has ended; `left`,
    that it has given all back and is no guest any more.
    """

    owner: Owner
    guest: Guest
    rests: bool = False
    arrives: bool = False
    closed: set[Resource] = field(default_factory=set)
    paths: dict[str, Resource] = field(default_factory=dict)
    gone: bool = False
    left: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def uuid(self) -> UUID:
        """Its domain's."""
        return self.owner.domain.uuid


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked for a guest, in its turn: etcd is waited for `until`, and whoever has asked goes at `late`."""

    resident: Resident = field(kw_only=False)
    until: float
    late: float

    def check_in_time(self, now: float, /) -> None:
        """Raises `OutcomeUnknown`: a yes would not be heard any more."""
        if now >= self.late:
            raise OutcomeUnknown(f"{self.resident.owner}: done too late for whoever has asked", hint="try again")


class Residents:
    """All of them, by domain."""

    def __init__(self, processes: Processes, /) -> None:
        self._processes = processes
        self._by_domain: dict[UUID, Resident] = {}

    def __iter__(self) -> Iterator[Resident]:
        return iter(tuple(self._by_domain.values()))

    def find(self, uuid: UUID, /) -> Resident | None:
        """Whoever lives under the domain's UUID."""
        return self._by_domain.get(uuid)

    def add(self, resident: Resident, /) -> None:
        """It moves in."""
        self._by_domain[resident.uuid] = resident

    def remove(self, resident: Resident, /) -> None:
        """It holds nothing any more."""
        if self._by_domain.get(resident.uuid) is resident:
            del self._by_domain[resident.uuid]

    def of(self, owner: Owner, /) -> Resident | None:
        """The owner's very process, None if it has not moved in. Raises `Refused` where another one has."""
        known = self._by_domain.get(owner.domain.uuid)
        if known is not None and (known.owner.pid != owner.pid or self._has_ended(known)):
            raise Refused(
                f"domain {owner.domain} has another process on this host, {known.owner.pid}",
                hint="a domain has one process; wait until that one is gone and its locks are given back",
            )
        return known

    def is_ending(self, owner: Owner, /) -> bool:
        """Whether an earlier process of the owner's domain has ended, but still holds something.

        Raises `NoSuchGuest` if the owner's has ended, too.
        """
        self._processes.attach(owner.pid)
        known = self._by_domain.get(owner.domain.uuid)
        return known is not None and self._has_ended(known)

    def attach(self, pid: int, pid_start: int, /) -> Guest | None:
        """This very process, if it still lives."""
        return find_again(self._processes, pid, pid_start)

    async def earlier(self, names: frozenset[GuestName], /) -> dict[GuestName, Guest]:
        """Of an earlier agent's guests those that live, or of which something does."""
        living = {name: guest for name in names if (guest := self.attach(*name)) is not None}
        return {**living, **await self._processes.left_behind(names - living.keys())}

    def _has_ended(self, resident: Resident) -> bool:
        return resident.gone or self.attach(resident.guest.pid, resident.guest.pid_start) is None


def find_again(processes: Processes, pid: int, pid_start: int, /) -> Guest | None:
    """This very process, if it still lives."""
    try:
        guest = processes.attach(pid)
    except NoSuchGuest:
        return None
    return guest if guest.pid_start == pid_start else None
