"""What the judge is told of a guest: when it ran, where, on which disks, with which token."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from etcdlock.model import Resource

FOR_EVER = float("inf")


def called(resource: Resource, /) -> str:
    """One disk, and no other: a host's own file has the same path as another host's."""
    return f"{resource.lockspace}:{resource.name}"


@dataclass(frozen=True)
class Span:
    """One guest from the moment it is let run until it stops or its last process is gone; its disks in each mode.

    `added` are the tokens of disks that came later than the domain's own. `unasked`: nobody had been asked for it.
    `stale`: its domain has run since its memory was what it is.
    """

    host: str
    uuid: str
    pid: int
    token: int
    began: float
    ended: float
    exclusive: frozenset[str]
    shared: frozenset[str] = frozenset()
    added: tuple[tuple[str, int], ...] = ()
    unasked: bool = False
    stale: bool = False

    @property
    def disks(self) -> frozenset[str]:
        return self.exclusive | self.shared

    def during(self, instant: float) -> bool:
        return self.began <= instant < self.ended

    def token_of(self, disk: str) -> int:
        """A disk's token is the larger of its domain's and its own."""
        return max(self.token, dict(self.added).get(disk, 0))

    def is_of(self, other: Span) -> bool:
        """Whether both are of one process."""
        return (self.host, self.uuid, self.pid) == (other.host, other.uuid, other.pid)

    def __str__(self) -> str:
        return f"{self.uuid[-4:]} on {self.host} ({self.began:.3f} to {self.ended:.3f}, token {self.token})"


def without(span: Span, stood: Iterable[tuple[float, float | None]], /) -> list[Span]:
    """What is left of it: a guest that is frozen does not run."""
    left, began = [], span.began
    for since, until in stood:
        if since >= span.ended:
            break
        if since > began:
            left.append(replace(span, began=began, ended=since))
        began = max(began, FOR_EVER if until is None else until)
    if began < span.ended:
        left.append(replace(span, began=began))
    return left
