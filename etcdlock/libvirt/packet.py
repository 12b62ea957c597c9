"""Where one message ends and the next begins, and the header that each carries.

Guaranteed by `PacketDecoder`: packets come out the same however the bytes were cut on their way. It keeps fewer bytes
than the longest message allowed, whatever length the peer announces, and takes room only for bytes that have come. A
length that no message can have ends the conversation for good: nobody knows where the next message starts.

Not judged here: what is in a header or a body.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from etcdlock.errors import MalformedMessage
from etcdlock.libvirt.xdr import pack_u32

LENGTH_BYTES = 4
HEADER = struct.Struct(">IIiiIi")
SHORTEST_MESSAGE_BYTES = LENGTH_BYTES + HEADER.size
"""The length and a header, no body."""

LONGEST_MESSAGE_BYTES = 256 * 1024
"""Room for every message of the protocol: the longest call and the longest refusal carry two of the longest strings
each, 131,112 bytes and a little more. libvirt itself would take 32 MiB; of the thousands of connections that a host's
guests keep open, a few hundred half-sent messages of that size would be its whole memory."""


class PacketType(IntEnum):
    """What a packet is. libvirt has more types; virtlockd's clients send calls and get replies."""

    CALL = 0
    REPLY = 1


class Status(IntEnum):
    """How the call went; always OK in a call."""

    OK = 0
    ERROR = 1


@dataclass(frozen=True, slots=True)
class Header:
    """As read, so any number may be anything; `type` and `status` should be a `PacketType` and a `Status`."""

    program: int
    version: int
    procedure: int
    type: int
    serial: int
    status: int

    def encode(self) -> bytes:
        """Its 24 bytes. Raises `MalformedMessage` for a number that does not fit."""
        numbers = (self.program, self.version, self.procedure, self.type, self.serial, self.status)
        try:
            return HEADER.pack(*numbers)
        except struct.error as error:
            raise MalformedMessage(f"a header of {numbers}: {error}") from None


@dataclass(frozen=True, slots=True)
class Packet:
    """One whole message."""

    header: Header
    body: bytes = b""

    def encode(self) -> bytes:
        """The message with its length in front."""
        content = self.header.encode() + self.body
        return pack_u32(LENGTH_BYTES + len(content)) + content


@dataclass(frozen=True, slots=True)
class HangUp:
    """The peer is broken: close the connection, there is nothing to answer."""

    reason: str


class PacketDecoder:
    """Bytes in, packets out; one for each direction of a connection."""

    def __init__(self, *, longest_message_bytes: int = LONGEST_MESSAGE_BYTES) -> None:
        self._longest = longest_message_bytes
        self._kept = bytearray()
        self._wanted = LENGTH_BYTES
        self._broken: HangUp | None = None

    @property
    def kept_bytes(self) -> int:
        """How many bytes of an unfinished message have come; above 0 when a connection ends, it was cut short."""
        return len(self._kept)

    def feed(self, received: bytes, /) -> tuple[Packet | HangUp, ...]:
        """The packets that these bytes complete, in order; a `HangUp` is the last, and all there is from then on."""
        found: list[Packet | HangUp] = []
        rest = memoryview(received)
        while self._broken is None and rest:
            missing = self._wanted - len(self._kept)
            self._kept += rest[:missing]
            rest = rest[missing:]
            if len(self._kept) == self._wanted:
                found += self._advance()
        return tuple(found) if self._broken is None else (*found, self._broken)

    def _advance(self) -> tuple[Packet, ...]:
        """What was wanted is there: a message's length, or all of it."""
        if self._wanted == LENGTH_BYTES:
            self._announced(int.from_bytes(self._kept))
            return ()
        packet = _packet(bytes(self._kept))
        self._expect_next()
        return (packet,)

    def _announced(self, length: int) -> None:
        if SHORTEST_MESSAGE_BYTES <= length <= self._longest:
            self._wanted = length
            return
        self._expect_next()
        self._broken = HangUp(
            f"a message of {length} bytes was announced; {SHORTEST_MESSAGE_BYTES} to {self._longest} are allowed"
        )

    def _expect_next(self) -> None:
        self._kept = bytearray()
        self._wanted = LENGTH_BYTES


def _packet(message: bytes) -> Packet:
    return Packet(Header(*HEADER.unpack_from(message, LENGTH_BYTES)), message[SHORTEST_MESSAGE_BYTES:])
