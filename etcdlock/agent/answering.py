"""Notes what became of a request and how long its answer took, for logs and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from etcdlock.agent.context import Context
from etcdlock.errors import EtcdlockError
from etcdlock.journal import note
from etcdlock.model import DomainId, Resource


@contextmanager
def answer_noted(context: Context, domain: DomainId, /, *resources: Resource) -> Iterator[None]:
    """The block answers a request for these locks: with yes if it ends, with no if it raises an error of ours.

    Where a no is answered with yes all the same, whoever does that notes it.
    """
    clock = context.clock
    begun, wanted = clock.now(), ", ".join(map(str, resources))
    try:
        yield
    except EtcdlockError as error:
        seconds, reason = clock.now() - begun, type(error).__name__
        if not context.is_shadow:
            note("refused", domain=domain, resources=wanted, reason=reason, seconds=seconds, error=error)
        raise
    note("acquired", domain=domain, resources=wanted, seconds=clock.now() - begun)
