"""The eight procedures of virtlockd, as records, and how their arguments travel.

Guaranteed: what `read_arguments` returns is written again byte for byte by `pack_arguments`. Both let any flags pass;
`unsupported_flags` says which of them a procedure does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntFlag
from typing import Any, ClassVar, get_args, get_type_hints
from uuid import UUID

from etcdlock.libvirt.xdr import XdrReader, pack_string, pack_u32, pack_uuid


class AcquireFlags(IntFlag):
    """How ACQUIRE_RESOURCE is meant: together with other shared holders; creating the resource if there is none."""

    SHARED = 1
    AUTOCREATE = 2


@dataclass(frozen=True, slots=True)
class Register:
    """Says on whose behalf the connection locks: a domain, its libvirt id, and the pid of its process."""

    procedure: ClassVar[int] = 1
    uuid: UUID
    name: str
    id: int
    pid: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Restrict:
    """From now on the connection may do nothing: it is handed to the guest, to show that it lives."""

    procedure: ClassVar[int] = 2
    flags: int = 0


@dataclass(frozen=True, slots=True)
class NewLockspace:
    """NEW: a lockspace in the folder `path`, which may not exist yet."""

    procedure: ClassVar[int] = 3
    path: str
    flags: int = 0


@dataclass(frozen=True, slots=True)
class CreateResource:
    """Make a resource that can be locked."""

    procedure: ClassVar[int] = 4
    path: str
    name: str
    flags: int = 0


@dataclass(frozen=True, slots=True)
class DeleteResource:
    """Remove a resource that is not locked."""

    procedure: ClassVar[int] = 5
    path: str
    name: str
    flags: int = 0


@dataclass(frozen=True, slots=True)
class AcquireResource:
    """Lock a resource: `name` in the lockspace `path`; in the lockspace "" the name is a disk's path."""

    procedure: ClassVar[int] = 6
    path: str
    name: str
    flags: int = 0

    @property
    def shared(self) -> bool:
        """Whether other shared holders are welcome."""
        return AcquireFlags.SHARED in AcquireFlags(self.flags)


@dataclass(frozen=True, slots=True)
class ReleaseResource:
    """Unlock a resource."""

    procedure: ClassVar[int] = 7
    path: str
    name: str
    flags: int = 0


@dataclass(frozen=True, slots=True)
class CreateLockspace:
    """Make sure that there is a lockspace in the folder `path`. The only procedure without flags."""

    procedure: ClassVar[int] = 8
    path: str


Request = (
    Register
    | Restrict
    | NewLockspace
    | CreateResource
    | DeleteResource
    | AcquireResource
    | ReleaseResource
    | CreateLockspace
)

PROCEDURES: dict[int, type[Request]] = {kind.procedure: kind for kind in get_args(Request)}

READ_AS: dict[object, Callable[[XdrReader], object]] = {
    UUID: XdrReader.uuid,
    str: XdrReader.string,
    int: XdrReader.u32,
}
PACK_AS: dict[object, Callable[[Any], bytes]] = {UUID: pack_uuid, str: pack_string, int: pack_u32}

LAYOUTS: dict[int, dict[str, object]] = {
    number: {field.name: get_type_hints(kind)[field.name] for field in fields(kind)}
    for number, kind in PROCEDURES.items()
}
"""Arguments travel in the order of a record's fields, each as its type says."""


def read_arguments(procedure: int, body: bytes, /) -> Request:
    """The call of a procedure in `PROCEDURES`. Raises `MalformedMessage`."""
    reader = XdrReader(body)
    arguments: list[Any] = [READ_AS[kind](reader) for kind in LAYOUTS[procedure].values()]
    reader.finish()
    return PROCEDURES[procedure](*arguments)


def pack_arguments(request: Request, /) -> bytes:
    """The body of a call. Raises `MalformedMessage` for values that cannot be sent."""
    layout = LAYOUTS[request.procedure]
    return b"".join(PACK_AS[kind](getattr(request, name)) for name, kind in layout.items())


def unsupported_flags(request: Request, /) -> int:
    """The flags of a call that its procedure does not have."""
    match request:
        case CreateLockspace():
            return 0
        case AcquireResource(flags=flags):
            return flags & ~int(AcquireFlags.SHARED | AcquireFlags.AUTOCREATE)
        case _:
            return request.flags
