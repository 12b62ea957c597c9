"""Plays one schedule, all of it decided by its seed, and tells what was wrong with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from etcdlock.testing import run_virtual
from tests.promises.judge import spans
from tests.promises.span import Span
from tests.simulation.checkers import check
from tests.simulation.drama import Drama
from tests.simulation.themes import Theme, theme_of

LONGEST_SECONDS = 5000.0
QUIET_SHARE = 0.2


@dataclass(frozen=True)
class Played:
    """What became of one schedule. `history`, where it was asked for: all that etcd went through, and when what ran."""

    seed: int
    theme: str
    violations: tuple[str, ...]
    history: str

    @property
    def digest(self) -> str:
        """Two plays are the same if this is."""
        return hashlib.sha256(self.history.encode()).hexdigest()


def play(seed: int, *, with_history: bool = False) -> Played:
    """Play it from its beginning to its end. Whatever goes wrong is a violation."""
    theme = theme_of(seed)
    drama: list[Drama] = []
    try:
        found = run_virtual(_played(seed, theme, drama), limit_seconds=LONGEST_SECONDS)
    except Exception as error:  # noqa: BLE001 - a program, or the schedule itself, ended as nothing should
        found = [f"{type(error).__name__}: {error}"]
    cluster = drama[0].cluster
    history = [*map(repr, cluster.etcd.history), *map(_line, spans(cluster))] if with_history else []
    return Played(seed, theme.__name__, tuple(found), "\n".join(history))


def _line(span: Span) -> str:
    """All of it; sets have no order of their own."""
    disks = f"exclusive {sorted(span.exclusive)}, shared {sorted(span.shared)}"
    return f"{replace(span, exclusive=frozenset(), shared=frozenset())!r} {disks}"


async def _played(seed: int, theme: Theme, drama: list[Drama]) -> list[str]:
    drama.append(d := Drama(seed))
    found = []
    try:
        await theme(d)
        await d.end_of_faults()
        if d.maybe(QUIET_SHARE):
            found += await d.quiet()
        found += await d.final()
    except AssertionError as error:
        found.append(f"AssertionError: {error}")
    finally:
        await d.cluster.end()
    return [*check(d.cluster), *found]
