"""virtlockd's protocol: what a peer's bytes mean, and the bytes that answer it.

Guaranteed: whatever a peer sends becomes one of three records, and never an exception.

    Call      a procedure with its arguments, all of them in range: do it and answer
    Refusal   not a call that can be done, but we know where the next one starts: answer this error and go on
    HangUp    not the protocol at all: close the connection

An answer repeats program, version, procedure and serial of its call: by them the peer knows which call it is to. A call
that was read is written again byte for byte by `encode_call`.

Not decided here: whether a caller has registered or is restricted, and whether it gets its lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from etcdlock.errors import MalformedMessage
from etcdlock.libvirt import remote_error
from etcdlock.libvirt.packet import HangUp, Header, Packet, PacketDecoder, PacketType, Status
from etcdlock.libvirt.procedure import PROCEDURES, Request, pack_arguments, read_arguments, unsupported_flags
from etcdlock.libvirt.remote_error import RemoteError, decode_error
from etcdlock.libvirt.xdr import XdrReader

PROGRAM = 0xEA7BEEF
VERSION = 1


@dataclass(frozen=True, slots=True)
class Call:
    """A call that can be done."""

    header: Header
    request: Request


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that cannot be done; to be answered with `error`."""

    header: Header
    error: RemoteError


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client gets back; `error` is None if it was done."""

    procedure: int
    serial: int
    error: RemoteError | None


def read_calls(decoder: PacketDecoder, received: bytes, /) -> Iterator[Call | Refusal | HangUp]:
    """What a peer's bytes mean, in order; what else came with the cause of a `HangUp` is not looked at."""
    for found in decoder.feed(received):
        meaning = found if isinstance(found, HangUp) else read_call(found)
        yield meaning
        if isinstance(meaning, HangUp):
            return


def read_call(packet: Packet, /) -> Call | Refusal | HangUp:
    """What a peer's packet means. One that is no call cannot be answered, and no client of virtlockd sends it."""
    header = packet.header
    if header.type != PacketType.CALL:
        return HangUp(f"a packet of type {header.type}; virtlockd takes only calls ({PacketType.CALL})")
    error = _misaddressed(header)
    if error is not None:
        return Refusal(header, error)
    try:
        request = read_arguments(header.procedure, packet.body)
    except MalformedMessage as why:
        return Refusal(header, remote_error.undecodable(why))
    unsupported = unsupported_flags(request)
    return Refusal(header, remote_error.unsupported_flags(unsupported)) if unsupported else Call(header, request)


def encode_done(to: Header, /) -> bytes:
    """The answer that says it was done."""
    return _reply(to, Status.OK, b"")


def encode_error(to: Header, error: RemoteError, /) -> bytes:
    """The answer that says why it was not done."""
    return _reply(to, Status.ERROR, error.encode())


def encode_call(request: Request, /, *, serial: int) -> bytes:
    """What a client sends. Raises `MalformedMessage` for values that cannot be sent."""
    header = Header(PROGRAM, VERSION, request.procedure, PacketType.CALL, serial, Status.OK)
    return Packet(header, pack_arguments(request)).encode()


def read_answer(packet: Packet, /) -> Answer:
    """What a client gets back. Raises `MalformedMessage` for what is no answer of virtlockd."""
    header = packet.header
    if header.type != PacketType.REPLY:
        raise MalformedMessage(f"a packet of type {header.type} in the place of a reply")
    if header.status not in tuple(Status):
        raise MalformedMessage(f"a reply of status {header.status}")
    if header.status == Status.ERROR:
        return Answer(header.procedure, header.serial, decode_error(packet.body))
    XdrReader(packet.body).finish()
    return Answer(header.procedure, header.serial, None)


def _misaddressed(header: Header) -> RemoteError | None:
    """Why no procedure of ours is meant, if so."""
    if (header.program, header.version) != (PROGRAM, VERSION):
        return remote_error.unknown_program(header.program, version=header.version)
    if header.status != Status.OK:
        return remote_error.unexpected_status(header.status)
    return None if header.procedure in PROCEDURES else remote_error.unknown_procedure(header.procedure)


def _reply(to: Header, status: Status, body: bytes) -> bytes:
    return Packet(replace(to, type=PacketType.REPLY, status=status), body).encode()
