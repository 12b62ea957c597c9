"""virtlockd's protocol, byte for byte.

The bytes are written out by hand from the protocol's description, so that reading and writing cannot share a mistake.
"""

from __future__ import annotations

from uuid import UUID

import pytest

from etcdlock.errors import EtcdlockError, MalformedMessage
from etcdlock.libvirt import remote_error
from etcdlock.libvirt.packet import HangUp, Header, Packet, PacketDecoder, PacketType, Status
from etcdlock.libvirt.procedure import (
    PROCEDURES,
    AcquireFlags,
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
from etcdlock.libvirt.remote_error import RemoteError
from etcdlock.libvirt.wire import (
    Answer,
    Call,
    Refusal,
    encode_call,
    encode_done,
    encode_error,
    read_answer,
    read_call,
    read_calls,
)

SERIAL = 0x01020304
OUR_PROGRAM = "0ea7beef 00000001"
UUID_BYTES = "00010203 04050607 08090a0b 0c0d0e0f"
NUL = "00000000"
NO_FLAGS = NUL
DISK = "00000005 2f616263 64000000"
"""The string /abcd."""
LOCKSPACE = "00000003 2f6c7300"
"""The string /ls."""
RELEASE = Header(0xEA7BEEF, 1, 7, PacketType.CALL, SERIAL, Status.OK)

REQUESTS: list[tuple[Request, str]] = [
    (
        Register(uuid=UUID(bytes=bytes(range(16))), name="vm1", id=7, pid=4711),
        f"00000001 {UUID_BYTES} 00000003 766d3100 00000007 00001267 {NO_FLAGS}",
    ),
    (Restrict(), f"00000002 {NO_FLAGS}"),
    (NewLockspace("/ls"), f"00000003 {LOCKSPACE} {NO_FLAGS}"),
    (CreateResource(path="/ls", name="/abcd"), f"00000004 {LOCKSPACE} {DISK} {NO_FLAGS}"),
    (DeleteResource(path="/ls", name="/abcd"), f"00000005 {LOCKSPACE} {DISK} {NO_FLAGS}"),
    (AcquireResource(path="", name="/abcd", flags=AcquireFlags.SHARED), f"00000006 00000000 {DISK} 00000001"),
    (AcquireResource(path="/ls", name="/abcd", flags=AcquireFlags.AUTOCREATE), f"00000006 {LOCKSPACE} {DISK} 00000002"),
    (ReleaseResource(path="", name="/abcd"), f"00000007 00000000 {DISK} {NO_FLAGS}"),
    (CreateLockspace("/ls"), f"00000008 {LOCKSPACE}"),
]


def message(content: str) -> bytes:
    """A packet from hexadecimal: all that follows the length."""
    content_bytes = bytes.fromhex(content)
    return (4 + len(content_bytes)).to_bytes(4) + content_bytes


def call(procedure_and_body: str, *, address: str = OUR_PROGRAM, kind: str = NUL, status: str = NUL) -> bytes:
    """A call from hexadecimal: its procedure, then its arguments."""
    procedure, body = procedure_and_body[:8], procedure_and_body[8:]
    return message(f"{address} {procedure} {kind} 01020304 {status} {body}")


def only(received: bytes) -> Packet:
    (packet,) = PacketDecoder().feed(received)
    assert isinstance(packet, Packet)
    return packet


def meaning(received: bytes) -> Call | Refusal | HangUp:
    (found,) = read_calls(PacketDecoder(), received)
    return found


def refused(received: bytes) -> RemoteError:
    """The error that answers it."""
    found = meaning(received)
    assert isinstance(found, Refusal)
    return there_and_back(found.error)


def there_and_back(error: RemoteError) -> RemoteError:
    """The error as the peer reads it; it must be the same."""
    found = read_answer(only(encode_error(RELEASE, error))).error
    assert found == error
    return found


@pytest.mark.parametrize(("request_", "written"), REQUESTS)
def test_every_procedure_is_read_from_its_bytes_and_written_to_them(request_: Request, written: str) -> None:
    found = meaning(call(written))
    assert isinstance(found, Call)
    assert found.request == request_
    assert found.header.serial == SERIAL
    assert encode_call(request_, serial=SERIAL) == call(written)


def test_the_examples_cover_all_eight_procedures() -> None:
    assert {request.procedure for request, _ in REQUESTS} == set(range(1, 9)) == set(PROCEDURES)


def test_a_shared_lock_is_told_from_an_exclusive_one() -> None:
    assert AcquireResource("", "/disk", AcquireFlags.SHARED | AcquireFlags.AUTOCREATE).shared
    assert not AcquireResource("", "/disk", AcquireFlags.AUTOCREATE).shared


def test_a_whole_message_on_the_wire() -> None:
    expected = (
        "00000030 0ea7beef 00000001 00000006 00000000 01020304 00000000"  # 48 bytes; ACQUIRE_RESOURCE, call, serial, OK
        "00000000"  # path ""
        "00000005 2f616263 64000000"  # name "/abcd" and three bytes of padding
        "00000003"  # flags: shared, autocreate
    )
    request = AcquireResource("", "/abcd", AcquireFlags.SHARED | AcquireFlags.AUTOCREATE)
    assert encode_call(request, serial=SERIAL) == bytes.fromhex(expected)


def test_done_is_answered_with_an_empty_body_and_the_serial_of_the_call() -> None:
    found = meaning(call(f"00000002 {NO_FLAGS}"))
    assert isinstance(found, Call)
    answer = encode_done(found.header)
    assert answer == bytes.fromhex("0000001c 0ea7beef 00000001 00000002 00000001 01020304 00000000")
    assert read_answer(only(answer)) == Answer(procedure=2, serial=SERIAL, error=None)


def test_an_error_on_the_wire() -> None:
    body = (
        "00000001 00000033"  # code, domain
        "00000001 0000003a" + b"internal error: owner 4711 does not hold the resource lock".hex() + "0000"
        "00000002 00000000"  # level; about no virtual machine
        "00000001 00000012" + b"internal error: %s".hex() + "0000"
        "00000001 0000002a" + b"owner 4711 does not hold the resource lock".hex() + "0000"
        "00000000 ffffffff ffffffff 00000000"  # no str3, -1, -1, about no network
    )
    expected = message(f"{OUR_PROGRAM} 00000007 00000001 01020304 00000001 {body}")
    error = remote_error.not_the_owner(4711)
    assert encode_error(RELEASE, error) == expected
    assert read_answer(only(expected)) == Answer(procedure=7, serial=SERIAL, error=error)


@pytest.mark.parametrize(
    ("error", "code", "domain", "text"),
    [
        (remote_error.held_by_another("/d is held by vm2 on b"), 87, 51, "resource busy: /d is held by vm2 on b"),
        (remote_error.not_locked("/d"), 87, 51, "resource busy: Lockspace resource '/d' is not locked"),
        (remote_error.not_the_owner(12), 1, 51, "internal error: owner 12 does not hold the resource lock"),
        (remote_error.could_not_be_done("no etcd answers"), 9, 51, "operation failed: no etcd answers"),
        (
            remote_error.connection_restricted(),
            29,
            7,
            "operation forbidden: lock manager connection has been restricted",
        ),
        (
            remote_error.owner_not_registered(),
            55,
            7,
            "Requested operation is not valid: lock owner details have not been registered",
        ),
        (
            remote_error.default_lockspace_exists(),
            55,
            7,
            "Requested operation is not valid: the default lockspace already exists",
        ),
    ],
)
def test_each_case_has_its_code_domain_and_text(error: RemoteError, code: int, domain: int, text: str) -> None:
    assert (error.code, error.domain, error.message, error.level) == (code, domain, text, 2)
    assert error.str1 is not None
    assert error.str2 is not None
    assert error.str1 % error.str2 == text
    assert (error.str3, error.int1, error.int2) == (None, -1, -1)


@pytest.mark.parametrize(
    ("received", "code", "text"),
    [
        (call("00000063"), 39, "unknown procedure: 99"),
        (call("00000000"), 39, "unknown procedure: 0"),
        (call("ffffffff"), 39, "unknown procedure: -1"),
        (call("00000001", address="0ea7beef 00000002"), 39, "Cannot find program 245874415 version 2"),
        (call("00000001", address="00000005 00000001"), 39, "Cannot find program 5 version 1"),
        (call(f"00000002 {NO_FLAGS}", status="00000001"), 39, "Unexpected message status 1"),
        (call("00000002 00000004"), 8, "invalid argument: unsupported flags (0x4)"),
        (call(f"00000006 00000000 {DISK} 00000009"), 8, "invalid argument: unsupported flags (0x8)"),
        (call(f"00000007 00000000 {DISK} 00000001"), 8, "invalid argument: unsupported flags (0x1)"),
    ],
)
def test_what_virtlockd_does_not_have_is_answered(received: bytes, code: int, text: str) -> None:
    error = refused(received)
    assert (error.code, error.domain, error.message) == (code, 7, text)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("", "ends 4 bytes too early"),
        ("00000005 2f616263", "ends 1 bytes too early"),
        ("00000005 2f61626364", "ends 3 bytes too early"),
        (f"{LOCKSPACE} {NO_FLAGS} 00", "1 bytes left over"),
        (f"00000005 2f616263 64000001 {NO_FLAGS}", "padded with other bytes than zero"),
        (f"00000003 2f006c00 {NO_FLAGS}", "NUL byte"),
        ("00010001 2f6c7300", "at most 65536"),
        ("ffffffff", "at most 65536"),
        ("0000ffff 2f6c7300", "too early"),
    ],
)
def test_arguments_that_cannot_be_read_are_refused_and_the_next_call_is_served(body: str, why: str) -> None:
    broken = call(f"00000003 {body}")
    error = refused(broken)
    assert (error.code, error.domain) == (39, 7)
    assert error.message is not None
    assert error.message.startswith("Unable to decode message payload: ")
    assert why in error.message
    _, after = read_calls(PacketDecoder(), broken + call(f"00000002 {NO_FLAGS}"))
    assert isinstance(after, Call)


@pytest.mark.parametrize("kind", ["00000001", "00000002", "00000004", "ffffffff"])
def test_a_packet_that_is_no_call_ends_the_connection(kind: str) -> None:
    received = call(f"00000002 {NO_FLAGS}", kind=kind) + call(f"00000002 {NO_FLAGS}")
    (found,) = read_calls(PacketDecoder(), received)
    assert isinstance(found, HangUp)


def test_calls_that_came_before_the_peer_broke_are_still_served() -> None:
    good = call(f"00000002 {NO_FLAGS}")
    first, second = read_calls(PacketDecoder(), good + bytes.fromhex("00000003") + good)
    assert isinstance(first, Call)
    assert isinstance(second, HangUp)


def test_a_path_that_is_not_utf8_comes_and_goes_unchanged() -> None:
    found = meaning(call(f"00000007 00000000 00000004 2ffffe69 {NO_FLAGS}"))
    assert isinstance(found, Call)
    assert found.request == ReleaseResource("", "/\udcff\udcfei")
    refusal = encode_error(found.header, remote_error.not_locked("/\udcff\udcfei"))
    assert b"'/\xff\xfei' is not locked" in refusal


@pytest.mark.parametrize(
    "request_",
    [
        Restrict(flags=2**32),
        Restrict(flags=-1),
        NewLockspace("a\0b"),
        NewLockspace("x" * 65_537),
        NewLockspace("\ud800"),
    ],
)
def test_what_the_protocol_cannot_say_is_never_sent(request_: Request) -> None:
    with pytest.raises(MalformedMessage):
        encode_call(request_, serial=1)


def test_a_serial_that_does_not_fit_is_never_sent() -> None:
    with pytest.raises(MalformedMessage, match="4294967296"):
        encode_call(Restrict(), serial=2**32)


def test_malformed_messages_belong_to_the_one_tree_of_errors() -> None:
    assert issubclass(MalformedMessage, EtcdlockError)


@pytest.mark.parametrize(
    ("received", "why"),
    [
        (call("00000002"), "type 0 in the place of a reply"),
        (call("00000002", kind="00000001", status="00000002"), "status 2"),
        (call("00000002 00000000", kind="00000001"), "left over"),
        (call("00000002", kind="00000001", status="00000001"), "too early"),
        (call("00000002 00000001 00000007 00000002", kind="00000001", status="00000001"), "presence mark 2"),
        (call("00000002 00000001 00000007 00000000 00000002 00000001", kind="00000001", status="00000001"), "machine"),
    ],
)
def test_a_client_refuses_what_is_no_answer(received: bytes, why: str) -> None:
    with pytest.raises(MalformedMessage, match=why):
        read_answer(only(received))


@pytest.mark.parametrize("name", ["n" * 65_536, "ä" * 32_768, "a\0b", "\ud800", "\udcff" * 65_536])
def test_any_name_can_be_put_into_a_refusal(name: str) -> None:
    error = there_and_back(remote_error.not_locked(name))
    assert error.message is not None
    assert error.message.startswith("resource busy: Lockspace resource '")


def test_an_explanation_that_is_too_long_is_cut_visibly() -> None:
    error = there_and_back(remote_error.held_by_another("x" * 100_000))
    assert error.message is not None
    assert error.message.endswith("x…")
    assert len(error.message.encode()) == 65_536


def test_a_packet_is_understood_on_its_own() -> None:
    packet = Packet(Header(0xEA7BEEF, 1, 2, PacketType.CALL, 5, Status.OK), bytes(4))
    assert read_call(packet) == Call(packet.header, Restrict())
