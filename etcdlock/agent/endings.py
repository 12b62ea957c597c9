"""How this host's guests ended, for whoever has started one and finds it killed.

Guaranteed: BY_ITSELF and STOPPED are said only of guests that this agent has watched until their end. What it has not
seen, or forgotten, it does not know.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum
from uuid import UUID

from etcdlock.agent.enforcer import Enforcer
from etcdlock.agent.ledger import Ledger
from etcdlock.agent.residents import Resident
from etcdlock.agent.resuming import Departed
from etcdlock.agent.witness import Witness

MOST_REMEMBERED = 4096


class End(StrEnum):
    """What became of a guest."""

    NOT_KNOWN = "not known"
    """It has not ended as far as is known here, or did while no agent ran."""
    BY_ITSELF = "by itself"
    """Or by whoever has killed it: neither its session nor its lock was lost."""
    STOPPED = "stopped"
    """Its session could not be proven any more, or its lock was taken meanwhile."""


class Endings:
    """The latest ones."""

    def __init__(self, enforcer: Enforcer | Witness, ledger: Ledger, /) -> None:
        self._enforcer = enforcer
        self._ledger = ledger
        self._known: OrderedDict[tuple[UUID, int], End] = OrderedDict()

    def remember(self, resident: Resident, /) -> None:
        """Its process has just ended; what it held has not been given back yet."""
        self._known[resident.uuid, resident.owner.pid] = self._end_of(resident)
        while len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)

    def find(self, uuid: UUID, pid: int, /) -> End:
        """How this process of the domain ended."""
        return self._known.get((uuid, pid), End.NOT_KNOWN)

    def _end_of(self, resident: Resident, /) -> End:
        """By us, by the guard, whose deadline is ours, or because another has the lock."""
        guest = resident.guest
        if isinstance(guest, Departed):
            return End.NOT_KNOWN
        if isinstance(self._enforcer, Witness):
            return End.BY_ITSELF
        was_lost = self._ledger.holding(resident.uuid) is None
        stopped = self._enforcer.stopped(guest) or self._enforcer.overdue(guest) or was_lost
        return End.STOPPED if stopped else End.BY_ITSELF
