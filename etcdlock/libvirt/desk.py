"""Locking and giving up as libvirt asks for it: from a call to the program behind the door, and back to an answer.

Guaranteed: every ACQUIRE is answered within `acquire_seconds`, whatever happens behind the door.

When that time is up, the program behind is not interrupted: what it has sent to etcd may be done already. The call is
answered with an error and what is still taken stays the guest's. That never leaves a lock that nobody knows of:

- At a start libvirt takes the error for a failure and kills the guest; the guest's end releases all that it has.
- At a resume the guest stays stopped. A lock too many harms nobody; the next resume finds it and is answered at once.
- A disk that could not be attached stays locked until it is attached and detached, or the guest ends.

Giving up what came too late would be worse: by then libvirt may have asked again, been told yes, and let the guest run.

A door that is closing takes nothing new, but still gives up. Which clock: the event loop's, and only to stop waiting.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from etcdlock.errors import EtcdlockError
from etcdlock.journal import note
from etcdlock.libvirt import reasons
from etcdlock.libvirt.caller import resource_of
from etcdlock.libvirt.locks import Locks
from etcdlock.libvirt.procedure import AcquireResource, ReleaseResource
from etcdlock.libvirt.remote_error import RemoteError
from etcdlock.model import Owner, Resource


class Desk:
    """Does for all connections of a door what one of them is asked; None is the answer that it has been done."""

    def __init__(self, locks: Locks, /, *, acquire_seconds: float) -> None:
        self._locks = locks
        self._acquire_seconds = acquire_seconds
        self._overdue: set[asyncio.Task[None]] = set()
        self._is_closing = False

    def close(self) -> None:
        """From now on nothing new is taken."""
        self._is_closing = True

    def arrived(self, guest: Owner, /) -> None:
        """The guest's own connection is there."""
        self._locks.present(guest)

    def departed(self, guest: Owner, /) -> None:
        """The guest's own connection has ended, and not by us."""
        self._locks.departed(guest)

    def release(self, owner: Owner, request: ReleaseResource, /) -> RemoteError | None:
        """Give up, at once."""
        try:
            self._locks.give_up(owner, resource_of(request))
        except EtcdlockError as error:
            return reasons.refusal(error, name=request.name, owner=owner)
        return None

    async def acquire(self, owner: Owner, request: AcquireResource, /) -> RemoteError | None:
        """Take, or find out why not, in time."""
        if self._is_closing:
            return reasons.stopping()
        try:
            resource = resource_of(request)
        except EtcdlockError as error:
            return reasons.refusal(error, name=request.name, owner=owner)
        taking = asyncio.ensure_future(self._locks.take(owner, resource))
        await asyncio.wait((taking,), timeout=self._acquire_seconds)
        if taking.done():
            return _outcome(taking, name=request.name, owner=owner)
        self._overdue.add(taking)
        taking.add_done_callback(partial(self._was_late, owner, resource))
        note("acquire_overdue", level=logging.WARNING, owner=owner, resource=resource, seconds=self._acquire_seconds)
        return reasons.not_in_time(resource, seconds=self._acquire_seconds)

    def _was_late(self, owner: Owner, resource: Resource, taking: asyncio.Task[None]) -> None:
        self._overdue.discard(taking)
        error = _outcome(taking, name=str(resource), owner=owner)
        outcome = "taken, and stays the guest's" if error is None else error.message
        note("acquire_came_late", level=logging.WARNING, owner=owner, resource=resource, outcome=outcome)


def _outcome(taking: asyncio.Task[None], *, name: str, owner: Owner) -> RemoteError | None:
    """How it went. An exception that is none of ours is a bug: it is logged, and libvirt is answered all the same."""
    if taking.cancelled():
        return reasons.stopping()
    error = taking.exception()
    if error is None:
        return None
    if isinstance(error, EtcdlockError):
        return reasons.refusal(error, name=name, owner=owner)
    taking.get_loop().call_exception_handler({"message": "a lock could not be taken", "exception": error})
    return reasons.fault(error)
