"""What an agent finds of the one before it on the same boot: the domains it held, and guests that ended meanwhile."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from etcdlock.agent.context import Context
from etcdlock.errors import CorruptRecord
from etcdlock.journal import note
from etcdlock.model import StoredDomain
from etcdlock.ports import ExitStatus, KeyValue
from etcdlock.records import decode_domain
from etcdlock.session import is_of
from etcdlock.transitions import all_domains


async def held_earlier(context: Context, /, *, until: float) -> tuple[StoredDomain, ...]:
    """The domains that agents of this boot hold, by whichever of their sessions.

    What cannot be read is passed over with a line in the log: it is nobody's to take, and nobody's to give back.
    """
    async for attempt in context.patiently(until=until):
        with attempt:
            found = (await context.store.txn(all_domains(context.keys))).replies[1]
    stored = [domain for item in found if (domain := _read(item)) is not None]
    return tuple(domain for domain in stored if _is_ours(context, domain))


def _read(item: KeyValue, /) -> StoredDomain | None:
    try:
        return decode_domain(item)
    except CorruptRecord as error:
        note("unreadable", level=logging.ERROR, key=item.key, error=error)
        return None


def _is_ours(context: Context, stored: StoredDomain, /) -> bool:
    record = stored.record
    same_boot = record.machine.boot == context.machine.boot
    return record.owner.host == context.host and same_boot and is_of(context.kind, record.owner)


@dataclass(frozen=True, slots=True)
class Departed:
    """A guest whose process is gone."""

    pid: int
    pid_start: int
    pidfd: int = -1

    def open_gate(self, *, token: int) -> None:
        """Nobody is there to let in."""

    def signal(self, number: int, /) -> None:
        """Nobody is there to hear it."""

    def kill(self) -> None:
        """Nobody is there to kill."""

    def freeze(self) -> None:
        """Nobody is there to stop."""

    def stands(self) -> bool:
        """Nothing of it runs."""
        return True

    def go_on(self) -> None:
        """Nobody is there to let run."""

    async def gone(self) -> ExitStatus:
        """At once; how it ended, nobody saw."""
        return ExitStatus(0)
