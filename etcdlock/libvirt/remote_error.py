"""The errors that virtlockd's clients understand: one function for each case, and the body that carries them.

libvirt prints `message` as it comes, so what kind of error it is stands in front of it. Programs go by `code`.

Guaranteed: what the functions here return can always be sent. Texts hold names that came over the wire and words out
of etcd; what no string of the protocol can say is replaced, and what is too long is cut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from etcdlock.errors import MalformedMessage
from etcdlock.libvirt.xdr import (
    LONGEST_STRING_BYTES,
    XdrReader,
    pack_i32,
    pack_optional_string,
    pack_u32,
)

ERROR_LEVEL = 2
ABSENT = pack_u32(0)
ELLIPSIS = "…"
UNSENDABLE = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")
"""NUL, and surrogates that stand for no byte. JSON can hold both."""


class Code(IntEnum):
    """libvirt's error numbers (virErrorNumber), as far as they are used here."""

    INTERNAL_ERROR = 1
    INVALID_ARG = 8
    OPERATION_FAILED = 9
    OPERATION_DENIED = 29
    RPC = 39
    OPERATION_INVALID = 55
    RESOURCE_BUSY = 87


class Domain(IntEnum):
    """Which part of libvirt an error claims to be from (virErrorDomain)."""

    RPC = 7
    LOCKSPACE = 51


@dataclass(frozen=True, slots=True)
class RemoteError:
    """An error as it travels. `code` and `domain` are a `Code` and a `Domain` where they are known.

    By libvirt's habit str1 is the format of the message, str2 what was put into it, and unused integers are -1. libvirt
    lets an error's strings be longer than those of a call; here one bound holds for all.
    """

    code: int
    domain: int
    message: str | None
    level: int = ERROR_LEVEL
    str1: str | None = None
    str2: str | None = None
    str3: str | None = None
    int1: int = -1
    int2: int = -1

    def encode(self) -> bytes:
        """The body of an answer. Raises `MalformedMessage` for what cannot be sent."""
        return b"".join(
            (
                pack_i32(self.code),
                pack_i32(self.domain),
                pack_optional_string(self.message),
                pack_i32(self.level),
                ABSENT,  # no virtual machine
                pack_optional_string(self.str1),
                pack_optional_string(self.str2),
                pack_optional_string(self.str3),
                pack_i32(self.int1),
                pack_i32(self.int2),
                ABSENT,  # no network
            )
        )


def decode_error(body: bytes, /) -> RemoteError:
    """Read an error's body. Raises `MalformedMessage`; also for one about a network or machine, as none of ours is."""
    reader = XdrReader(body)
    code, domain, message, level = reader.i32(), reader.i32(), reader.optional_string(), reader.i32()
    _nothing(reader, "virtual machine")
    str1, str2, str3 = reader.optional_string(), reader.optional_string(), reader.optional_string()
    int1, int2 = reader.i32(), reader.i32()
    _nothing(reader, "network")
    reader.finish()
    return RemoteError(code, domain, message, level, str1, str2, str3, int1, int2)


def _nothing(reader: XdrReader, what: str) -> None:
    if reader.present():
        raise MalformedMessage(f"an error about a {what}, which no lock call has")


def held_by_another(explanation: str, /) -> RemoteError:
    """Somebody else has it; `explanation` tells the operator who, and what to do."""
    return _error(Code.RESOURCE_BUSY, Domain.LOCKSPACE, "resource busy: %s", explanation)


def not_locked(name: str, /) -> RemoteError:
    """Release of a resource that nobody has locked."""
    return held_by_another(f"Lockspace resource '{name}' is not locked")


def not_the_owner(pid: int, /) -> RemoteError:
    """Release by somebody else than its holder."""
    detail = f"owner {pid} does not hold the resource lock"
    return _error(Code.INTERNAL_ERROR, Domain.LOCKSPACE, "internal error: %s", detail)


def could_not_be_done(explanation: str, /) -> RemoteError:
    """Neither granted nor held by another: etcd did not answer in time, or this host may not acquire now."""
    return _error(Code.OPERATION_FAILED, Domain.LOCKSPACE, "operation failed: %s", explanation)


def connection_restricted() -> RemoteError:
    """The connection was handed to a guest, which may do nothing with it."""
    detail = "lock manager connection has been restricted"
    return _error(Code.OPERATION_DENIED, Domain.RPC, "operation forbidden: %s", detail)


def owner_not_registered() -> RemoteError:
    """No owner was registered on this connection, or one with the id 0."""
    return _invalid_operation("lock owner details have not been registered")


def default_lockspace_exists() -> RemoteError:
    """A new lockspace with the empty path: that one is always there."""
    return _invalid_operation("the default lockspace already exists")


def unsupported_flags(flags: int, /) -> RemoteError:
    """Flags that the procedure does not have; `flags` are only those."""
    return _error(Code.INVALID_ARG, Domain.RPC, "invalid argument: %s", f"unsupported flags (0x{flags:x})")


def unknown_procedure(number: int, /) -> RemoteError:
    """A procedure that virtlockd does not have."""
    return _protocol_error(f"unknown procedure: {number}")


def unknown_program(program: int, /, *, version: int) -> RemoteError:
    """Another program than virtlockd, or another version of it."""
    return _protocol_error(f"Cannot find program {program} version {version}")


def unexpected_status(status: int, /) -> RemoteError:
    """A call that says it has failed."""
    return _protocol_error(f"Unexpected message status {status}")


def undecodable(why: MalformedMessage, /) -> RemoteError:
    """Arguments that cannot be read."""
    return _protocol_error(f"Unable to decode message payload: {why}")


def _invalid_operation(detail: str) -> RemoteError:
    return _error(Code.OPERATION_INVALID, Domain.RPC, "Requested operation is not valid: %s", detail)


def _protocol_error(detail: str) -> RemoteError:
    return _error(Code.RPC, Domain.RPC, "%s", detail)


def _error(code: Code, domain: Domain, form: str, detail: str) -> RemoteError:
    message = form.replace("%s", detail)
    return RemoteError(code, domain, _sendable(message), str1=form, str2=_sendable(detail))


def _sendable(text: str) -> str:
    """The text with nothing in it that a string of the protocol cannot hold."""
    content = UNSENDABLE.sub("\ufffd", text).encode("utf-8", "surrogateescape")
    if len(content) > LONGEST_STRING_BYTES:
        content = content[: LONGEST_STRING_BYTES - len(ELLIPSIS.encode())] + ELLIPSIS.encode()
    return content.decode("utf-8", "surrogateescape")
