"""A guest as libvirt knows it, and what of it the judge is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from etcdlock.model import Owner, Resource
from etcdlock.testing import FakeGuest
from tests.promises.span import Span


@dataclass(slots=True, eq=False)
class Vm:
    """A guest as its libvirt knows it. `since` is when its vCPUs began to run, None while they stand.

    `granted` counts the disks that it has been told it may use; `unasked`: it runs without having been told so;
    `sent`: all of its memory has gone to another host. `memory`: of which run of its domain its memory is, None while
    it has none; `stale`: of one that was not the latest when it was let run.
    """

    owner: Owner
    guest: FakeGuest
    disks: list[Resource]
    since: float | None = None
    granted: int = 0
    unasked: bool = False
    sent: bool = False
    memory: int | None = None
    stale: bool = False
    token: int = 0
    added: tuple[tuple[str, int], ...] = ()
    spans: list[Span] = field(default_factory=list)

    @property
    def runs(self) -> bool:
        return self.since is not None and self.guest.gone_at is None
