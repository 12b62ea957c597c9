"""What an agent in shadow mode would have refused or stopped: each noted when it happens, and counted.

The events `would_have_refused` and `would_have_stopped` are what `etcdlock shadow` is made of.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from etcdlock.errors import EtcdlockError, HeldElsewhere
from etcdlock.escalation import Charge
from etcdlock.journal import note
from etcdlock.model import Blocker, DomainId, Owner, Resource
from etcdlock.ports import GuestName

BEGAN, REFUSED, STOPPED = "shadow_began", "would_have_refused", "would_have_stopped"


class Findings:
    """`owner_of` tells whose process one is; it may be set when whoever knows exists."""

    def __init__(self) -> None:
        self.owner_of: Callable[[GuestName], Owner | None] = lambda _name: None
        self._lost: set[GuestName] = set()

    def refused(
        self, asked: str, domain: DomainId, error: EtcdlockError, /, *, pid: int = 0, resources: Iterable[Resource] = ()
    ) -> None:
        """A request of this name was answered with yes, and this is why it would not have been."""
        holders = [_holder(blocker) for blocker in error.blockers] if isinstance(error, HeldElsewhere) else []
        note(
            "would_have_refused",
            level=logging.WARNING,
            asked=asked,
            domain=domain,
            uuid=domain.uuid,
            pid=pid,
            resources=", ".join(map(str, resources)),
            reason=type(error).__name__,
            holders=", ".join(dict.fromkeys(holders)),
            error=error,
        )

    def unnamed(self, path: str, error: EtcdlockError, /) -> None:
        """A disk could not be told from others, and was locked by its path alone."""
        note(
            "would_have_refused",
            level=logging.WARNING,
            asked="name",
            domain="",
            uuid="",
            pid=0,
            resources=path,
            reason=type(error).__name__,
            holders="",
            error=error,
        )

    def overdue(self, guest: GuestName, reason: str, charge: Charge, /) -> None:
        """It runs on, and its session was not proven in time."""
        self._stopped(guest, reason, first=str(charge.action))

    def lost(self, guest: GuestName, reason: str, /) -> None:
        """It runs on, and would have been killed; told of once."""
        if guest not in self._lost:
            self._lost.add(guest)
            self._stopped(guest, reason, first="kill")

    def _stopped(self, guest: GuestName, reason: str, /, *, first: str) -> None:
        owner = self.owner_of(guest)
        domain = owner.domain if owner is not None else None
        note(
            "would_have_stopped",
            level=logging.WARNING,
            domain=domain or "",
            uuid=domain.uuid if domain is not None else "",
            pid=guest[0],
            pid_start=guest[1],
            reason=reason,
            first=first,
        )


def _holder(blocker: Blocker) -> str:
    host = f" on host {blocker.owner.host}" if blocker.owner is not None else ""
    return f"domain {blocker.domain}{host}"
