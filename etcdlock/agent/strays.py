"""Domains that another host had when their guest here ended: if they come back, nobody else would give them back."""

from __future__ import annotations

from dataclasses import dataclass, replace

from etcdlock.agent.ledger import Holding

LOOK_FOR_STRAYS_EVERY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Stray:
    """A domain that another had when our guest ended, and the revision of that, 0 where it was not seen.

    It is looked for when it is `due`: soon at first, since a migration that just failed is handed back at once.
    """

    lost: Holding
    claimed: int = 0
    due: float = 0.0
    pause_seconds: float = 1.0

    def later(self, now: float, /, *, claimed: int) -> Stray:
        """Whoever has it may not know yet."""
        pause = min(self.pause_seconds * 2, LOOK_FOR_STRAYS_EVERY_SECONDS)
        return replace(self, claimed=claimed, due=now + self.pause_seconds, pause_seconds=pause)
