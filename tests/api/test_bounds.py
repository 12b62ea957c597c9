"""What a client may take up of the agent, and who gets in at all."""

from __future__ import annotations

import grp
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcdlock.api import reservations
from etcdlock.api.bounds import Bounds
from etcdlock.api.client import AgentClient
from etcdlock.api.connection import Connection
from etcdlock.api.peer import Peer, Rights, Rules
from etcdlock.cli.doors import _group
from etcdlock.errors import InvalidInput, InvalidSetting, NotPermitted, Unreachable
from tests.api.serving import ApiHost, Serving, serving
from tests.promises.world import disk, domain

VM = domain(0x1234)
ACQUIRE = f"POST /v1/domains/{VM.uuid}/acquire HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
STRANGER, GROUP, OTHER_GROUP = 65_533, 65_532, 65_531
IMPATIENT = Bounds(idle_seconds=0.5, body_seconds=0.3)
ROOT = os.geteuid() == 0


def connect(host: ApiHost) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(10.0)
    made.connect(host.path)
    return made


def heard(connected: socket.socket) -> bytes:
    """Everything until the other side ends."""
    found = b""
    try:
        while piece := connected.recv(65_536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def answer(host: ApiHost, *pieces: bytes) -> tuple[int, bytes]:
    """To raw bytes: the status and the body, once the connection has been ended by the agent."""
    with connect(host) as connected:
        for piece in pieces:
            try:
                connected.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
        head, _, body = heard(connected).partition(b"\r\n\r\n")
    return int(head.split()[1]), body


# --- size and time --------------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused_and_the_client_understands(alice: ApiHost) -> None:
    with pytest.raises(InvalidInput, match="larger than 65536 bytes"):
        alice.client.declare_dead("bob", confirmed_by="x" * 1_000_000, reason="y")


def test_a_body_in_chunks_without_an_end_is_refused_as_soon_as_it_is_too_large(alice: ApiHost) -> None:
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    status, body = answer(alice, ACQUIRE.encode() + b"transfer-encoding: chunked\r\n\r\n", *[chunk] * 64)
    assert (status, json.loads(body)["error"]) == (413, "InvalidInput")


def test_a_body_that_does_not_come_is_not_waited_for(hosts: Serving) -> None:
    status, body = answer(hosts.host("alice", bounds=IMPATIENT), ACQUIRE.encode() + b"content-length: 10\r\n\r\n{")
    assert (status, json.loads(body)["outcome"]) == (408, "invalid")


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nx: " + b"y" * 20_000, b"\x00bad\r\n\r\n"], ids=["long", "bad"])
def test_a_head_that_is_too_long_or_no_http_is_refused(alice: ApiHost, sent: bytes) -> None:
    status, body = answer(alice, sent)
    assert (status, json.loads(body)["error"]) == (400, "InvalidInput")


@pytest.mark.parametrize("sent", [b"", b"GET /v1/agent HTTP/1.1\r\n"], ids=["nothing", "half a head"])
def test_a_client_that_says_nothing_more_is_cut_off(hosts: Serving, sent: bytes) -> None:
    with connect(hosts.host("alice", bounds=IMPATIENT)) as connected:
        connected.sendall(sent)
        assert heard(connected) == b""


def test_a_client_that_asks_and_never_reads_is_cut_off(hosts: Serving) -> None:
    alice = hosts.host("alice", bounds=IMPATIENT)
    with connect(alice) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(0.2)
        try:
            for _ in range(5_000):
                deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n")
        except OSError:
            pass
        until_alone(alice)
    assert alice.client.agent()["phase"] == "live"


def test_a_reservation_is_held_though_nobody_reads_that_it_is(hosts: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, full, pause = hosts.host("alice", bounds=IMPATIENT), threading.Event(), Connection.pause_writing

    def told(connection: Connection) -> None:
        pause(connection)
        full.set()

    monkeypatch.setattr(reservations, "KEEP_ALIVE_SECONDS", 0.0)
    monkeypatch.setattr(Connection, "pause_writing", told)
    owner, _ = alice.start(VM)
    held = alice.client.reserve(owner, (disk("a"),))
    assert full.wait(30)
    for _ in range(2):
        with connect(alice) as idle:
            assert heard(idle) == b""  # its time is up, and so would be the other's
    assert alice.hypervisor.record(VM) is not None
    begun = time.monotonic()
    hosts.call(alice.server.close())  # which waits for nobody to read, either
    assert time.monotonic() - begun < 5
    assert alice.hypervisor.record(VM) is None
    held.close()


def until_alone(host: ApiHost) -> None:
    deadline = time.monotonic() + 10.0
    while host.server.connections and time.monotonic() < deadline:
        time.sleep(0.05)  # sockets close in real time
    assert host.server.connections == 0


# --- number ---------------------------------------------------------------------------------------------------------


def test_two_hundred_idle_connections_hold_up_nobody_and_end_by_themselves(hosts: Serving) -> None:
    alice = hosts.host("alice", bounds=Bounds(idle_seconds=3.0))
    idle = [connect(alice) for _ in range(200)]
    assert alice.client.agent()["phase"] == "live"
    assert alice.server.connections >= 200
    until_alone(alice)
    for connected in idle:
        connected.close()


def test_one_connection_too_many_is_told_so(hosts: Serving) -> None:
    alice = hosts.host("alice", bounds=Bounds(most_acting=3))
    idle = [connect(alice) for _ in range(3)]
    with pytest.raises(Unreachable, match="too many connections"):
        alice.client.agent()
    idle.pop().close()
    deadline = time.monotonic() + 10.0
    while alice.server.connections > 2 and time.monotonic() < deadline:
        time.sleep(0.05)  # sockets close in real time
    assert alice.client.agent()["phase"] == "live"
    for connected in idle:
        connected.close()


def test_a_server_that_closes_ends_idle_connections_and_removes_its_socket(hosts: Serving) -> None:
    alice = hosts.host("alice")
    with connect(alice) as idle:
        hosts.call(alice.server.close())
        assert heard(idle) == b""
    assert not Path(alice.path).exists()
    with pytest.raises(Unreachable, match="no agent answers"):
        alice.client.agent()


# --- who ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "rights"),
    [
        (Peer(1, 0, frozenset()), Rights.EVERYTHING),
        (Peer(1, 1000, frozenset()), Rights.EVERYTHING),
        (Peer(1, 1001, frozenset({7})), Rights.READ),
        (Peer(1, 1001, frozenset({8})), Rights.NOTHING),
    ],
)
def test_root_and_the_agents_user_act_its_group_looks_and_nobody_else_gets_in(peer: Peer, rights: Rights) -> None:
    assert Rules(1000, 7).rights_of(peer) is rights
    assert Rules(1000).rights_of(Peer(1, 1001, frozenset({7}))) is Rights.NOTHING


@pytest.fixture
def open_house() -> Iterator[ApiHost]:
    """A host whose socket lets everybody connect, as it might be by mistake: then the agent alone decides."""
    folder = Path(tempfile.mkdtemp(prefix="etcdlock-api-"))
    folder.chmod(0o755)
    try:
        with serving(folder) as hosts:
            host = hosts.host("alice", rules=Rules(os.getuid(), GROUP))
            Path(host.path).chmod(0o666)
            yield host
    finally:
        shutil.rmtree(folder)


def ask_as(host: ApiHost, request: str, *, uid: int, groups: tuple[int, ...]) -> tuple[int, str]:
    """Status and error of what another user asks, with a program that has nothing of ours."""
    program = (
        "import contextlib, os, socket, sys\n"
        "gid, *more = map(int, sys.argv[3].split(','))\n"
        "os.chdir(os.path.dirname(sys.argv[1]))\n"  # what lies above it may be for us alone
        "os.setgroups(more); os.setgid(gid); os.setuid(int(sys.argv[2]))\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(os.path.basename(sys.argv[1]))\n"
        "with contextlib.suppress(BrokenPipeError):\n"  # turned away before it could ask
        "    s.sendall((sys.argv[4] + ' HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n').encode())\n"
        "heard = b''\n"
        "with contextlib.suppress(ConnectionResetError):\n"  # behind the answer, where it was not listened to
        "    while piece := s.recv(65536): heard += piece\n"
        "print(heard.decode().replace('\\r', ''))"
    )
    command = [sys.executable, "-c", program, host.path, str(uid), ",".join(map(str, groups)), request]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    head, _, body = done.stdout.partition("\n\n")
    return int(head.split()[1]), str(json.loads(body).get("error", ""))


needs_root = pytest.mark.skipif(not ROOT, reason="needs root: make system-deps")


@needs_root
def test_a_stranger_is_turned_away_whatever_is_asked(open_house: ApiHost) -> None:
    for request in ("GET /v1/agent", f"POST /v1/domains/{VM.uuid}/park"):
        told = ask_as(open_house, request, uid=STRANGER, groups=(OTHER_GROUP,))
        assert told == (403, "NotPermitted")


@needs_root
@pytest.mark.parametrize("groups", [(GROUP,), (OTHER_GROUP, GROUP)], ids=["primary", "supplementary"])
def test_a_member_of_the_group_looks_and_changes_nothing(open_house: ApiHost, groups: tuple[int, ...]) -> None:
    assert ask_as(open_house, "GET /v1/agent", uid=STRANGER, groups=groups) == (200, "")
    for call in ("park", "release", "migration/cancel"):
        told = ask_as(open_house, f"POST /v1/domains/{VM.uuid}/{call}", uid=STRANGER, groups=groups)
        assert told == (403, "NotPermitted")
    assert ask_as(open_house, "POST /v1/hosts/bob/break", uid=STRANGER, groups=groups)[0] == 403


def test_the_socket_lets_in_its_group_and_no_others(tmp_path: Path) -> None:
    mine = os.getgroups()[-1] if os.getgroups() else os.getgid()
    assert grp.getgrgid(mine)
    with serving(tmp_path) as hosts:
        host = hosts.host("alice", rules=Rules(os.getuid(), mine))
        found = Path(host.path).stat()
    assert (found.st_mode & 0o777, found.st_gid) == (0o660, mine)


def test_a_group_is_known_by_its_name_or_its_number_and_no_other_is_taken() -> None:
    assert [_group(""), _group("root"), _group("64055")] == [None, 0, 64055]
    with pytest.raises(InvalidSetting, match="no group 'nobody knows it' on this host"):
        _group("nobody knows it")


@needs_root
def test_a_client_that_may_not_connect_is_told_why(open_house: ApiHost) -> None:
    Path(open_house.path).chmod(0o600)
    program = (
        f"import os; os.chdir({str(Path(open_house.path).parent)!r})\n"
        f"os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})\n"
        "from etcdlock.api.client import AgentClient\n"
        f"AgentClient({Path(open_house.path).name!r}).agent()"
    )
    assert AgentClient(open_house.path).agent()["host"] == "alice"
    with pytest.raises(NotPermitted, match="Permission denied"):
        raise_as_told(program)


def raise_as_told(program: str) -> None:
    """The packages may lie where only root reads: import first, then become somebody else."""
    first = "from etcdlock.api.client import AgentClient\nfrom etcdlock.errors import EtcdlockError\n"
    last = "\n".join(f"    {line}" for line in program.splitlines() if not line.startswith("from"))
    code = f"{first}try:\n{last}\nexcept EtcdlockError as error:\n    print(type(error).__name__, error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    if done.stdout.startswith("NotPermitted"):
        raise NotPermitted(done.stdout)
