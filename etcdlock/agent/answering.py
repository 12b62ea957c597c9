"""Notes what became of a request and how long its answer took, for logs and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from etcdlock.errors import EtcdlockError
from etcdlock.journal import note
from etcdlock.model import DomainId, Resource
from etcdlock.ports import Clock


@contextmanager
def answer_noted(clock: Clock, domain: DomainId, /, *resources: Resource) -> Iterator[None]:
    """The block answers a request for these locks: with yes if it ends, with no if it raises an error of ours."""
    begun, wanted = clock.now(), ", ".join(map(str, resources))
    try:
        yield
    except EtcdlockError as error:
        seconds, reason = clock.now() - begun, type(error).__name__
        note("refused", domain=domain, resources=wanted, reason=reason, seconds=seconds, error=error)
        raise
    note("acquired", domain=domain, resources=wanted, seconds=clock.now() - begun)
