"""Who has the locks in the demo, as seen from etcd's record, the process that it names, and what that one wrote."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from etcdlock.demo import checker
from etcdlock.demo.hosts import Host, Run
from etcdlock.demo.stage import Stage
from etcdlock.demo.verdict import require
from etcdlock.demo.witness import GuestWitness
from etcdlock.model import SessionRef, StoredDomain

LOOK_AT_DISK_EVERY_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Owner:
    """The host, its program, the lock as etcd has it, and the guest's process."""

    stage: Stage
    host: Host
    run: Run
    stored: StoredDomain
    guest: GuestWitness

    @classmethod
    async def become(cls, stage: Stage, host: Host, run: Run, /, *, after: Owner | None) -> Owner:
        """Come back when etcd names the host as owner, later than `after`, and its guest has written to the disk."""
        seen = await stage.witness.holder(host.name, after=after.stored if after else None)
        owner = cls(stage, host, run, seen.what, stage.watch_guest(seen.what))
        await owner.written(1, after=0.0)
        return owner

    @property
    def token(self) -> int:
        """Its fencing token."""
        return self.stored.token

    @property
    def session(self) -> SessionRef:
        """The session that its lock names."""
        return self.stored.record.owner

    async def as_it_stands(self) -> Owner:
        """With the lock as etcd has it now: on a very busy machine its session may have been lost and replaced."""
        stored = await self.stage.witness.lock()
        require(stored.token == self.token, f"{self.host.name} has lost its locks to {stored.record.owner}")
        return replace(self, stored=stored)

    def records(self) -> tuple[checker.Record, ...]:
        """What it has written so far."""
        return tuple(record for record in self.stage.read_disk().records if record.token == self.token)

    async def written(self, least: int, /, *, after: float) -> None:
        """Come back when that many records were begun after an instant. Raises `NotSo` if the guest ends before."""
        while sum(record.before_at > after for record in self.records()) < least:
            require(self.guest.runs, f"the guest on {self.host.name} has ended; etcdlock said: {self.run.reason()}")
            await asyncio.sleep(LOOK_AT_DISK_EVERY_SECONDS)
