"""What every part of a program needs of the world around it, handed in once."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from etcdlock.errors import OutcomeUnknown, Unreachable
from etcdlock.keyspace import Keyspace
from etcdlock.model import Machine, SessionKind
from etcdlock.ports import Clock, Store
from etcdlock.session import Contract
from etcdlock.timing import Timing

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The store, the clock, the keys and who we are. `chance` gives ids and jitter; a seeded one makes runs repeatable."""

    store: Store
    clock: Clock
    keys: Keyspace
    contract: Contract
    host: str
    machine: Machine
    kind: SessionKind
    version: str
    address: str = ""
    chance: random.Random = field(default_factory=random.SystemRandom)

    @property
    def timing(self) -> Timing:
        """The contract's timing."""
        return self.contract.timing

    def fresh_id(self) -> str:
        """A random id, 64 bits in hex, used once: for a session or a request."""
        return f"{self.chance.getrandbits(64):016x}"

    def since(self) -> str:
        """Now, for people."""
        return self.clock.wall().isoformat(timespec="seconds")

    def patiently(self, *, until: float) -> AsyncRetrying:
        """Repeat what failed for want of an answer, with exponential backoff and jitter, until the clock says `until`.

        Only for what may be repeated: connecting, joining, reads, barriers. Never round another transaction.
        """
        return AsyncRetrying(
            sleep=self.clock.sleep,
            stop=_when_past(self.clock, until),
            wait=lambda state: self.backoff_seconds(state.attempt_number),
            retry=retry_if_exception_type((Unreachable, OutcomeUnknown)),
            reraise=True,
        )

    def backoff_seconds(self, failures: int, /) -> float:
        """How long to pause after that many failures in a row (1 or more): exponential, with jitter."""
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 10))
        return self.chance.uniform(longest / 2, longest)


def _when_past(clock: Clock, until: float) -> Callable[[RetryCallState], bool]:
    return lambda _state: clock.now() >= until
