"""Our words against the real virtlockd: it understands what we say, and we what it answers.

It runs as a plain user's virtlockd on a socket of the test's, so it finds nothing of the host's. The pid of every owner
is above the kernel's highest, as virtlockd kills owners that vanish with their locks held.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from uuid import UUID

import pytest

from etcdlock.libvirt import remote_error
from etcdlock.libvirt.packet import Header, Packet, PacketDecoder, PacketType, Status
from etcdlock.libvirt.procedure import (
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
from etcdlock.libvirt.wire import PROGRAM, VERSION, encode_call, read_answer

NO_PROCESS = 2**22 + 1
"""Linux counts pids up to 2**22."""

AS_PLAIN_USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
START = 'LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=virtlockd.socket exec "$0" -f /dev/null 3<&0'
"""As systemd would: the listening socket is descriptor 3."""
ANSWER_SECONDS = 10.0

RESTRICT = Header(PROGRAM, VERSION, Restrict.procedure, PacketType.CALL, serial=1, status=Status.OK)


class Client:
    """One connection, that asks and waits for the answer."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ANSWER_SECONDS)
        self._socket.connect(str(path))
        self._decoder = PacketDecoder()
        self._serials = count(2**32 - 100)

    def ask(self, request: Request) -> RemoteError | None:
        """What the server says to a call; None if it has done it."""
        serial = next(self._serials)
        packet = self.exchange(encode_call(request, serial=serial))
        answer = read_answer(packet)
        assert (answer.procedure, answer.serial) == (request.procedure, serial)
        return answer.error

    def exchange(self, message: bytes) -> Packet:
        """The one packet that answers."""
        self._socket.sendall(message)
        while not (found := self._decoder.feed(self._receive())):
            pass
        (packet,) = found
        assert isinstance(packet, Packet)
        return packet

    def hangs_up_on(self, message: bytes) -> bool:
        """Whether the server closes the connection instead of answering."""
        self._socket.sendall(message)
        try:
            return not self._socket.recv(1)
        except ConnectionResetError:
            return True

    def registered(self, *, pid: int = NO_PROCESS) -> Client:
        """The same, now that it speaks for a domain."""
        assert self.ask(Register(UUID(int=pid), "vm", id=1, pid=pid)) is None
        return self

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> bytes:
        received = self._socket.recv(65_536)
        assert received, "virtlockd closed the connection"
        return received


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a virtlockd; it may be connected to at once."""
    program = shutil.which("virtlockd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("needs virtlockd: make system-deps")
    folder = tmp_path_factory.mktemp("v")
    homes = dict.fromkeys(("HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), str(folder))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        virtlockd = subprocess.Popen(
            [*(AS_PLAIN_USER if os.geteuid() == 0 else []), "sh", "-c", START, program],
            env={**os.environ, **homes},
            stdin=listener.fileno(),
            stderr=subprocess.DEVNULL,
        )
    with virtlockd:
        yield folder / "s"
        virtlockd.terminate()


@pytest.fixture
def client(door: Path) -> Iterator[Client]:
    one = Client(door)
    yield one
    one.close()


@pytest.fixture
def rival(door: Path) -> Iterator[Client]:
    other = Client(door)
    yield other
    other.close()


@pytest.fixture
def disk(tmp_path: Path) -> str:
    """A disk whose name is not UTF-8."""
    path = os.fsencode(tmp_path) + b"/disk\xff"
    Path(os.fsdecode(path)).touch()
    return path.decode("utf-8", "surrogateescape")


def test_it_does_what_libvirt_asks_for_a_guest(client: Client, disk: str) -> None:
    client.registered()
    assert client.ask(AcquireResource("", disk)) is None
    assert client.ask(ReleaseResource("", disk)) is None
    assert client.ask(Restrict()) is None


def test_it_does_what_libvirt_asks_for_hashed_names(client: Client, tmp_path: Path) -> None:
    space = str(tmp_path / "locks")
    assert client.ask(CreateLockspace(space)) is None
    client.registered()
    assert client.ask(AcquireResource(space, "hash", AcquireFlags.AUTOCREATE | AcquireFlags.SHARED)) is None
    assert client.ask(ReleaseResource(space, "hash")) is None


def test_it_makes_lockspaces_and_resources(client: Client, tmp_path: Path) -> None:
    space = str(tmp_path / "new")
    client.registered()
    assert client.ask(NewLockspace(space)) is None
    assert client.ask(CreateResource(space, "one")) is None
    assert client.ask(DeleteResource(space, "one")) is None


def test_its_refusals_are_ours(client: Client, rival: Client, disk: str) -> None:
    client.registered()
    rival.registered(pid=NO_PROCESS + 1)
    assert client.ask(AcquireResource("", disk)) is None
    locked = remote_error.held_by_another(f"Lockspace resource '{disk}' is locked")
    assert rival.ask(AcquireResource("", disk)) == locked
    assert rival.ask(ReleaseResource("", disk)) == remote_error.not_the_owner(NO_PROCESS + 1)
    assert client.ask(ReleaseResource("", disk)) is None
    assert client.ask(ReleaseResource("", disk)) == remote_error.not_locked(disk)


def test_an_owner_must_be_known_in_the_same_words(client: Client, disk: str) -> None:
    unknown = remote_error.owner_not_registered()
    assert client.ask(AcquireResource("", disk)) == unknown
    assert client.ask(Register(UUID(int=1), "vm", id=0, pid=NO_PROCESS)) == unknown


def test_a_restricted_connection_is_refused_in_the_same_words(client: Client, disk: str) -> None:
    client.registered()
    assert client.ask(Restrict()) is None
    for request in (Restrict(), AcquireResource("", disk), CreateLockspace("/nowhere")):
        assert client.ask(request) == remote_error.connection_restricted()


def test_the_default_lockspace_is_there_in_the_same_words(client: Client) -> None:
    assert client.registered().ask(NewLockspace("")) == remote_error.default_lockspace_exists()


def test_what_it_does_not_have_it_refuses_in_the_same_words(client: Client) -> None:
    asked = {
        replace(RESTRICT, procedure=99): remote_error.unknown_procedure(99),
        replace(RESTRICT, procedure=-1): remote_error.unknown_procedure(-1),
        replace(RESTRICT, program=5): remote_error.unknown_program(5, version=VERSION),
        replace(RESTRICT, version=2): remote_error.unknown_program(PROGRAM, version=2),
        replace(RESTRICT, status=Status.ERROR): remote_error.unexpected_status(Status.ERROR),
    }
    for header, error in asked.items():
        answer = client.exchange(Packet(header, bytes(4)).encode())
        assert answer.header == replace(header, type=PacketType.REPLY, status=Status.ERROR)
        assert read_answer(answer).error == error


def test_flags_that_it_does_not_have_are_the_same_kind_of_error(client: Client) -> None:
    for request, flags in ((Restrict(flags=4), 4), (AcquireResource("", "/d", flags=9), 8)):
        theirs, ours = client.ask(request), remote_error.unsupported_flags(flags)
        assert theirs is not None
        assert (theirs.code, theirs.domain) == (ours.code, ours.domain)
        assert ours.str2 is not None
        assert str(theirs.message).startswith(ours.str2)


def test_arguments_that_cannot_be_read_are_the_same_kind_of_error_and_it_goes_on(client: Client) -> None:
    for body in (b"", b"\0\0\0", b"\0\1\0\1" + bytes(65_540), b"\0\0\xff\0abcd"):
        call = Packet(replace(RESTRICT, procedure=CreateLockspace.procedure), body)
        theirs = read_answer(client.exchange(call.encode())).error
        assert theirs is not None
        assert (theirs.code, theirs.domain) == (remote_error.Code.RPC, remote_error.Domain.RPC)
    assert client.ask(CreateLockspace("")) is None


def test_a_very_long_name_is_read_and_named(client: Client) -> None:
    name = "n" * 60_000
    assert client.registered().ask(ReleaseResource("", name)) == remote_error.not_locked(name)


@pytest.mark.parametrize("length", [0, 27, 2**32 - 1])
def test_a_length_that_no_message_can_have_makes_it_hang_up_too(client: Client, length: int) -> None:
    assert client.hangs_up_on(length.to_bytes(4) + bytes(24))
