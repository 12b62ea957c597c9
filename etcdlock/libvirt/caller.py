"""Who speaks on a connection, and what that one may ask; pure.

As virtlockd has it: nothing on a restricted connection; locks only for an owner that has been registered; the folders
of lockspaces by anybody, since libvirtd makes them before there is a guest to speak for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from etcdlock.errors import InvalidInput
from etcdlock.identity import normal_path
from etcdlock.libvirt import remote_error
from etcdlock.libvirt.procedure import (
    AcquireResource,
    CreateLockspace,
    NewLockspace,
    Register,
    ReleaseResource,
    Request,
)
from etcdlock.libvirt.remote_error import RemoteError
from etcdlock.model import DomainId, Mode, Owner, Resource

NOBODY = 0
"""The libvirt id, and the pid, of no one."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The process at the other end, and the guest that it speaks for once it has said so."""

    pid: int = NOBODY
    owner: Owner | None = None
    restricted: bool = False

    @property
    def guest(self) -> Owner | None:
        """The guest whose own connection this is: made by its process, and handed on to QEMU, which keeps it open.

        A peer that the kernel shows as nobody runs in a pid namespace that we cannot see into: it is no guest of ours.
        """
        own = self.restricted and self.owner is not None and self.owner.pid == self.pid != NOBODY
        return self.owner if own else None

    def registered(self, request: Register, /) -> Caller:
        """After REGISTER; a later one takes an earlier one's place."""
        return replace(self, owner=Owner(DomainId(request.uuid, request.name), request.pid))

    def denied(self, request: Request, /) -> RemoteError | None:
        """Why this may not be asked here, in virtlockd's words; None if it may."""
        if self.restricted:
            return remote_error.connection_restricted()
        match request:
            case Register():
                return remote_error.owner_not_registered() if request.id == NOBODY else None
            case CreateLockspace():
                return None
            case _ if self.owner is None:
                return remote_error.owner_not_registered()
            case NewLockspace(path=""):
                return remote_error.default_lockspace_exists()
            case _:
                return None


def resource_of(request: AcquireResource | ReleaseResource, /) -> Resource:
    """What is to be locked, or given up. A disk has its path alone: whoever is behind the door names it.

    Every other lockspace is a folder, its names stand as they come: digests, LVM's and SCSI's ids, keys of `<lease>`s.
    Being absolute paths these lockspaces are none of those in which disks are named. Raises `InvalidInput`.
    """
    shared = isinstance(request, AcquireResource) and request.shared
    mode = Mode.SHARED if shared else Mode.EXCLUSIVE
    if not request.path:
        normal_path(request.name)
        return Resource("", "", mode, path=request.name)
    if not request.name:
        raise InvalidInput("a resource without a name cannot be locked")
    return Resource(normal_path(request.path), request.name, mode, path="")
