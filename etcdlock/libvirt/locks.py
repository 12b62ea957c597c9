"""What the virtlockd door asks of the program behind it.

The door knows the protocol and nothing of locks; whoever satisfies `Locks` knows locks and nothing of the protocol.
"""

from __future__ import annotations

from typing import Protocol

from etcdlock.model import Owner, Resource


class Locks(Protocol):
    """The locks of this host's guests.

    An owner is named by whoever starts it and may be called again by another connection: domain and pid are its name.
    A resource is known by lockspace and name, or a disk, which has neither here, by its absolute path; the door cannot
    tell the mode of one that is given up.
    """

    def present(self, owner: Owner, /) -> None:
        """The guest's own connection has come, so its process exists: watch that from now on."""
        ...

    async def take(self, owner: Owner, resource: Resource, /) -> None:
        """Lock it for the guest; a success if the guest has it already.

        Bounded in time, and never cancelled by the door: what is taken after the door has stopped waiting stays the
        guest's. Raises `HeldElsewhere`, or another `EtcdlockError`.
        """
        ...

    def give_up(self, owner: Owner, resource: Resource, /) -> None:
        """The guest does not write it any more. Answered at once from what is known here: libvirt waits without end.

        Raises `NotLocked` or `NotTheOwner`.
        """
        ...

    def departed(self, owner: Owner, /) -> None:
        """The guest's own connection has ended: look whether its process is gone. It need not be."""
        ...
