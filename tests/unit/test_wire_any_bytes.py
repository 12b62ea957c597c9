"""virtlockd's protocol under bytes that nobody meant: cut anywhere, garbage, lies about lengths."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcdlock.libvirt.packet import LONGEST_MESSAGE_BYTES, HangUp, Packet, PacketDecoder
from etcdlock.libvirt.procedure import (
    AcquireResource,
    CreateLockspace,
    CreateResource,
    DeleteResource,
    NewLockspace,
    Register,
    ReleaseResource,
    Request,
    Restrict,
)
from etcdlock.libvirt.remote_error import RemoteError, decode_error
from etcdlock.libvirt.wire import Call, encode_call, read_calls
from etcdlock.libvirt.xdr import LONGEST_STRING_BYTES
from tests.fuzz.wire_properties import LONGEST_BYTES, check_conversation, pieces

u32 = st.integers(0, 2**32 - 1)
i32 = st.integers(-(2**31), 2**31 - 1)
names = st.binary(max_size=100).map(lambda raw: raw.replace(b"\0", b"/").decode("utf-8", "surrogateescape"))
maybe = st.none() | names
requests: st.SearchStrategy[Request] = st.one_of(
    st.builds(Register, uuid=st.uuids(), name=names, id=u32, pid=u32),
    st.just(Restrict()),
    st.builds(NewLockspace, path=names),
    st.builds(CreateResource, path=names, name=names),
    st.builds(DeleteResource, path=names, name=names),
    st.builds(AcquireResource, path=names, name=names, flags=st.integers(0, 3)),
    st.builds(ReleaseResource, path=names, name=names),
    st.builds(CreateLockspace, path=names),
)
cuts = st.lists(st.integers(0, LONGEST_BYTES), max_size=8)

LONGEST_CALL = encode_call(AcquireResource("p" * LONGEST_STRING_BYTES, "n" * LONGEST_STRING_BYTES), serial=1)
ROOM_BYTES = 32 * 1024
"""For the records around a message."""


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Good calls with one run of bytes overwritten."""
    several = draw(st.lists(requests, min_size=1, max_size=3))
    good = b"".join(encode_call(request, serial=draw(u32)) for request in several)
    at = draw(st.integers(0, len(good)))
    wrong = draw(st.binary(min_size=1, max_size=8))
    return good[:at] + wrong + good[at + len(wrong) :]


@st.composite
def framed(draw: st.DrawFn) -> bytes:
    """A body of garbage behind a header that is nearly right."""
    address = draw(st.sampled_from([b"\x0e\xa7\xbe\xef\0\0\0\1", bytes(8)]))
    numbers = b"".join(number.to_bytes(4) for number in (draw(st.integers(0, 9)), draw(st.integers(0, 1)), draw(u32)))
    content = address + numbers + draw(st.integers(0, 2)).to_bytes(4) + draw(st.binary(max_size=200))
    return (4 + len(content)).to_bytes(4) + content


@given(request=requests, serial=u32)
def test_every_call_comes_out_as_it_went_in(request: Request, serial: int) -> None:
    (found,) = read_calls(PacketDecoder(), encode_call(request, serial=serial))
    assert isinstance(found, Call)
    assert (found.request, found.header.serial) == (request, serial)


@given(st.builds(RemoteError, i32, i32, maybe, i32, maybe, maybe, maybe, i32, i32))
def test_every_error_comes_out_as_it_went_in(error: RemoteError) -> None:
    assert decode_error(error.encode()) == error


@given(received=st.one_of(st.binary(max_size=2 * LONGEST_BYTES), damaged(), framed()), cuts=cuts)
def test_any_bytes_become_calls_refusals_or_the_end_of_the_connection(received: bytes, cuts: list[int]) -> None:
    check_conversation(received, cuts=cuts)


def test_a_message_cut_at_any_byte_arrives_whole() -> None:
    first = encode_call(Register(UUID(int=7), "vm", id=1, pid=2), serial=1)
    stream = first + encode_call(AcquireResource("", "/disk"), serial=2)
    expected = PacketDecoder().feed(stream)
    assert len(expected) == 2
    for cut in range(len(stream) + 1):
        decoder = PacketDecoder()
        before, after = pieces(stream, [cut])
        early = decoder.feed(before)
        assert len(early) == (cut >= len(first)) + (cut == len(stream))
        assert decoder.kept_bytes == (0 if cut == len(stream) else cut - len(first) * len(early))
        assert early + decoder.feed(after) == expected


def test_a_message_that_trickles_in_byte_by_byte_arrives_whole() -> None:
    decoder = PacketDecoder()
    found = [packet for byte in LONGEST_CALL for packet in decoder.feed(bytes([byte]))]
    assert found == list(PacketDecoder().feed(LONGEST_CALL))
    assert len(found) == 1


@pytest.mark.parametrize("length", [0, 3, 27, LONGEST_BYTES + 1, 2**32 - 1])
def test_a_length_that_no_message_can_have_ends_the_connection_for_good(length: int) -> None:
    decoder = PacketDecoder(longest_message_bytes=LONGEST_BYTES)
    (found,) = decoder.feed(length.to_bytes(4))
    assert isinstance(found, HangUp)
    assert str(length) in found.reason
    assert decoder.feed(encode_call(Restrict(), serial=1)) == (found,)
    assert decoder.kept_bytes == 0


@pytest.mark.parametrize("length", [28, LONGEST_BYTES])
def test_the_shortest_and_the_longest_message_pass(length: int) -> None:
    decoder = PacketDecoder(longest_message_bytes=LONGEST_BYTES)
    (found,) = decoder.feed(length.to_bytes(4) + bytes(length - 4))
    assert isinstance(found, Packet)
    assert len(found.encode()) == length


def test_the_longest_call_of_the_protocol_is_read() -> None:
    (found,) = read_calls(PacketDecoder(), LONGEST_CALL)
    assert isinstance(found, Call)
    assert len(LONGEST_CALL) == 131_112 <= LONGEST_MESSAGE_BYTES


def test_a_promise_of_bytes_takes_no_memory() -> None:
    """A peer announces the longest message, and in it the longest string, and sends neither."""
    opened = LONGEST_MESSAGE_BYTES.to_bytes(4) + bytes.fromhex("0ea7beef 00000001 00000003 00000000 00000001 00000000")
    decoder = PacketDecoder()
    assert peak_bytes(lambda: decoder.feed(opened)) < ROOM_BYTES
    assert decoder.kept_bytes == len(opened)
    lie = bytes.fromhex("00000020 0ea7beef 00000001 00000003 00000000 00000001 00000000 0000ffff")
    assert peak_bytes(lambda: list(read_calls(PacketDecoder(), lie))) < ROOM_BYTES


def test_a_peer_that_sends_without_end_is_kept_within_the_bound() -> None:
    """Every chunk completes a message and leaves most of another; what is kept never reaches the longest message."""
    decoder = PacketDecoder(longest_message_bytes=LONGEST_BYTES)
    stream = (LONGEST_BYTES.to_bytes(4) + bytes(LONGEST_BYTES - 4)) * 50
    chunks = pieces(stream, range(LONGEST_BYTES - 1, len(stream), LONGEST_BYTES - 1))

    def receive() -> None:
        for chunk in chunks:
            decoder.feed(chunk)
            assert decoder.kept_bytes < LONGEST_BYTES

    assert peak_bytes(receive) < 4 * LONGEST_BYTES + ROOM_BYTES


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that was in use meanwhile, beyond what was before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
