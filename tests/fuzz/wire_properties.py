"""What must hold of the wire protocol for any bytes at all; asked by hypothesis and by the coverage-guided fuzzer.

Any exception, an AssertionError among them, is a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from etcdlock.errors import MalformedMessage
from etcdlock.libvirt.packet import HangUp, Packet, PacketDecoder
from etcdlock.libvirt.wire import (
    Call,
    Refusal,
    encode_call,
    encode_done,
    encode_error,
    read_answer,
    read_call,
    read_calls,
)
from etcdlock.libvirt.xdr import LONGEST_STRING_BYTES

LONGEST_BYTES = 512
"""A bound that random bytes reach."""

Decoded = tuple[Packet | HangUp, ...]


def check_conversation(received: bytes, /, *, cuts: Sequence[int]) -> None:
    """Whatever a peer sends, and however it was cut on its way."""
    whole = PacketDecoder(longest_message_bytes=LONGEST_BYTES)
    found = whole.feed(received)
    _check_nothing_is_lost(received, found, kept=whole.kept_bytes)
    assert _in_pieces(received, cuts) == found
    for packet in found:
        if isinstance(packet, Packet):
            _check_meaning(packet)
            _check_as_answer(packet)
    _check_order(received, found)


def pieces(received: bytes, cuts: Iterable[int], /) -> list[bytes]:
    """The same bytes, cut at these places."""
    places = [0, *sorted(cut % (len(received) + 1) for cut in cuts), len(received)]
    return [received[start:end] for start, end in pairwise(places)]


def _check_nothing_is_lost(received: bytes, found: Decoded, *, kept: int) -> None:
    """The packets, written again, are what came; the rest is kept unless the conversation is over."""
    again = b"".join(packet.encode() for packet in found if isinstance(packet, Packet))
    assert received.startswith(again)
    assert not any(isinstance(packet, HangUp) for packet in found[:-1])
    broken = bool(found) and isinstance(found[-1], HangUp)
    assert kept == (0 if broken else len(received) - len(again))


def _in_pieces(received: bytes, cuts: Sequence[int]) -> Decoded:
    """What comes out until the conversation is over, and how much is kept meanwhile."""
    decoder = PacketDecoder(longest_message_bytes=LONGEST_BYTES)
    found: list[Packet | HangUp] = []
    for piece in pieces(received, cuts):
        found += decoder.feed(piece)
        assert decoder.kept_bytes < LONGEST_BYTES
        if found and isinstance(found[-1], HangUp):
            break
    return tuple(found)


def _check_meaning(packet: Packet) -> None:
    """A call has one form only, and every refusal can be answered."""
    match read_call(packet):
        case Call(header, request):
            assert header == packet.header
            assert encode_call(request, serial=header.serial) == packet.encode()
            _check_as_answer(_only(encode_done(header)), must_be_one=True)
        case Refusal(header, error):
            assert header == packet.header
            assert len(error.message or "") <= LONGEST_STRING_BYTES
            answer = _only(encode_error(header, error))
            assert read_answer(answer).error == error
            _check_as_answer(answer, must_be_one=True)
        case HangUp(reason):
            assert reason


def _check_as_answer(packet: Packet, *, must_be_one: bool = False) -> None:
    """An answer has one form only; what is none is refused as malformed, in no other way."""
    try:
        answer = read_answer(packet)
    except MalformedMessage:
        assert not must_be_one
        return
    assert (answer.serial, answer.procedure) == (packet.header.serial, packet.header.procedure)
    again = encode_done(packet.header) if answer.error is None else encode_error(packet.header, answer.error)
    assert again == packet.encode()


def _check_order(received: bytes, found: Decoded) -> None:
    """`read_calls` says the same as packet by packet, and stops at the first reason to hang up."""
    meanings = list(read_calls(PacketDecoder(longest_message_bytes=LONGEST_BYTES), received))
    expected = [packet if isinstance(packet, HangUp) else read_call(packet) for packet in found]
    stop = next((place + 1 for place, meaning in enumerate(expected) if isinstance(meaning, HangUp)), len(expected))
    assert meanings == expected[:stop]


def _only(message: bytes) -> Packet:
    (packet,) = PacketDecoder().feed(message)
    assert isinstance(packet, Packet)
    return packet
