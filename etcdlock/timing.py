"""Every duration of a cluster, derived from a few numbers, proved when built and refused when unsafe.

What must hold: all that runs under a session is stopped before anybody can prove the session's end by silence. It rests
on the hold-off and on clocks that run at about the same rate (`clock_rate_error`), never on etcd's lease timers.

`S` is the instant, on the host's own clock, at which the last heartbeat that committed with success was sent. The
session's key existed at `S` or later. Whoever sees it missing does so later still, and waits `hold_off` on its own
clock before it may write the obituary. If our clock is slow by the rate error and the other's is fast by it, the wait
is at least `hold_off * (1 - rho) / (1 + rho)` of our seconds; half a second of that is kept back. What is left is the
`budget_seconds`: by `S + budget_seconds` everything must be dead.

Worst case at the defaults (TTL 10, hold-off 25, renewed every 2, each try 1.5, kill 5, guard lag 1, rho 0.001):

    second  on the host that lost etcd                 on the others
      0.0   S: last heartbeat that committed is sent
      3.5   suspect: a heartbeat is overdue,
            nothing new is acquired
     11.0                                              etcd's expiry scan has deleted the session's key: missing
     18.4   stop_at: guests are killed
     19.4   a guard that was scheduled 1 s late kills
     24.4   budget: all are dead, though the kill
            took 5 s
     25.0   earliest obituary that clocks allow, had the
            key been deleted at S
     36.0                                              obituary by silence, takeover

A host with a watchdog, whose timeout is W, must leave it time to reset the host where guests do not die. It is fed only
while now + 2 W + 0.5 <= S + budget: a guard that stalls after having looked feeds within W of the time before or finds
the host reset, and then W more pass, so the host is down half a second before the budget however long the guard stalls.
The last feeding may so come at S + budget - 2 W - 0.5, less the time between two feedings (at most `renew_every`), and
the reset W later. Guests must be dead before that, or the host would be reset without need:

    stop_at = S + budget - W - 0.5 - renew_every - kill - guard lag

    at the defaults and W = 5:
     10.9   stop_at: guests are killed
     13.9   the watchdog is not fed any more while anything of them lives
     16.9   all are dead though the guard was 1 s late and the kill took 5 s; the watchdog is fed again
     16.9   … or from here on, at the latest at 23.9, the host is reset

Which clock: the caller's `ports.Clock`; nothing here reads one.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

from etcdlock.errors import UnsafeTiming
from etcdlock.escalation import ACT_SHARE

KEPT_BACK_SECONDS = 0.5
"""Part of the hold-off that is never spent."""

EXPIRY_SCAN_SECONDS = 1.0
"""etcd looks for expired leases twice a second and revokes them through Raft; a second covers both."""

SHORTEST_TTL_SECONDS = 2
"""etcd's own lower bound at its default election timeout of 1 s."""

GREATEST_RATE_ERROR = 0.05

WATCHDOG_SPARE_SECONDS = 0.5
"""What a watchdog's own clock and timer may add to its timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The timing contract of a cluster, in seconds; all its sessions obey the same one."""

    ttl_seconds: int = 10
    hold_off_seconds: float = 25.0
    renew_every_seconds: float = 2.0
    try_timeout_seconds: float = 1.5
    kill_seconds: float = 5.0
    guard_lag_seconds: float = 1.0
    clock_rate_error: float = 0.001
    watchdog_seconds: float = 0.0
    """This host's own, no part of the contract: the timeout of its watchdog as read back from the device, 0 without."""

    def __post_init__(self) -> None:
        """Refuse what could let a guest outlive its proof, or stop guests for one lost message."""
        for rule, holds in self._rules():
            if not holds:
                raise UnsafeTiming(
                    f"timing refused: {rule}; given {self}",
                    hint="raise hold_off_seconds or ttl_seconds, or renew more often",
                )

    @property
    def budget_seconds(self) -> float:
        """B: how long after S everything of this host must be stopped."""
        rho = self.clock_rate_error
        return self.hold_off_seconds * (1 - rho) / (1 + rho) - KEPT_BACK_SECONDS

    @property
    def stop_after_seconds(self) -> float:
        """How long after S guests are killed, so that they are dead by the budget though the kill is late and slow."""
        return self.budget_seconds - self._reset_seconds - self.kill_seconds - self.guard_lag_seconds

    @property
    def act_seconds(self) -> float:
        """The part of the time to kill that a freeze or a command may take before SIGKILL."""
        return self.kill_seconds * ACT_SHARE

    @property
    def _reset_seconds(self) -> float:
        """How long before the budget a watchdog may reset the host at the earliest."""
        if not self.watchdog_seconds:
            return 0.0
        return self.watchdog_seconds + WATCHDOG_SPARE_SECONDS + self.renew_every_seconds

    @property
    def feed_until_seconds(self) -> float:
        """How long after S a watchdog is fed though guests run."""
        return self.budget_seconds - 2 * self.watchdog_seconds - WATCHDOG_SPARE_SECONDS

    @property
    def suitable_watchdog_seconds(self) -> int:
        """What a watchdog is asked for: two renewals and the guard's lag, in whole seconds."""
        return math.ceil(2 * self.renew_every_seconds + self.guard_lag_seconds)

    def watched(self, watchdog_seconds: float, /) -> Timing:
        """The same contract on a host whose watchdog has this timeout. Refused if that is too long for it."""
        return replace(self, watchdog_seconds=watchdog_seconds)

    @property
    def suspect_after_seconds(self) -> float:
        """How long after S a heartbeat counts as overdue."""
        return self.renew_every_seconds + self.try_timeout_seconds

    @property
    def second_try_seconds(self) -> float:
        """Latest instant after S at which a renewal commits whose first try was lost."""
        return max(2 * self.renew_every_seconds, self.suspect_after_seconds) + self.try_timeout_seconds

    @property
    def unattended_seconds(self) -> float:
        """How long a session may go unattended until its program counts as hung: longer than a renewal whose first
        try is lost, and early enough that another program can still take its place.
        """
        return (self.second_try_seconds + self.stop_after_seconds) / 2

    @property
    def takeover_seconds(self) -> float:
        """Worst takeover after a crash while etcd's leader stays: lease, expiry scan, hold-off."""
        return self.ttl_seconds + EXPIRY_SCAN_SECONDS + self.hold_off_seconds

    def key_gone_seconds(self, ttl_seconds: int) -> float:
        """By when the key of a session that nobody renews has gone, for one who looks often while etcd's leader stays.

        `ttl_seconds` is what its lease was granted, 0 where that is not known.
        """
        return (ttl_seconds or self.ttl_seconds) + EXPIRY_SCAN_SECONDS + 2 * self.try_timeout_seconds

    def granted(self, ttl_seconds: int) -> Timing:
        """The same contract with the TTL that etcd really granted; refused if that breaks it."""
        return self if ttl_seconds == self.ttl_seconds else replace(self, ttl_seconds=ttl_seconds)

    def as_mapping(self) -> dict[str, float]:
        """The numbers as they are written into the cluster's contract."""
        return {name: value for name, value in asdict(self).items() if name != "watchdog_seconds"}

    def __str__(self) -> str:
        return ", ".join(f"{name}={value:g}" for name, value in asdict(self).items())

    def _rules(self) -> tuple[tuple[str, bool], ...]:
        return (
            (
                f"clock_rate_error must be between 0 and {GREATEST_RATE_ERROR}",
                0 <= self.clock_rate_error <= GREATEST_RATE_ERROR,
            ),
            (f"ttl_seconds must be at least {SHORTEST_TTL_SECONDS}", self.ttl_seconds >= SHORTEST_TTL_SECONDS),
            (
                "renew_every_seconds, try_timeout_seconds, kill_seconds and guard_lag_seconds must be above 0",
                min(self.renew_every_seconds, self.try_timeout_seconds, self.kill_seconds, self.guard_lag_seconds) > 0,
            ),
            (
                f"ttl_seconds must be above {self.second_try_seconds:g}: when a renewal commits after a lost try",
                self.second_try_seconds < self.ttl_seconds,
            ),
            (
                (
                    f"guests would be stopped {self.stop_after_seconds:g} s after the last heartbeat, before a renewal "
                    f"whose first try is lost ({self.second_try_seconds:g} s): hold_off_seconds is too short for it"
                ),
                self.stop_after_seconds > self.second_try_seconds,
            ),
            (
                (
                    f"the watchdog, of {self.watchdog_seconds:g} s, would not be fed after "
                    f"{self.feed_until_seconds:g} s, before a renewal whose first try is lost "
                    f"({self.second_try_seconds:g} s): hold_off_seconds is too short for it"
                ),
                self.watchdog_seconds == 0 or self.feed_until_seconds > self.second_try_seconds,
            ),
            ("watchdog_seconds must not be below 0", self.watchdog_seconds >= 0),
        )
