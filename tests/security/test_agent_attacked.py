"""A real agent with a guest, and what others on its host try: nobody gets in, and it goes on proving its session."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.hosts import SHORT_TIMING, Running
from tests.cli.site import on_host
from tests.contract.etcds import DISTRO
from tests.security.secured import Etcds, Pki, SecureCluster

STRANGER, GROUP = 65_533, 65_534
GIB = 1 << 30
ATTACKER = Path(__file__).with_name("attacker.py")
ACQUIRE = (
    b"POST /v1/domains/4dea22b3-1d52-48f3-a516-782e98ab3fa0/acquire HTTP/1.1\r\nhost: x\r\n"
    b"content-type: application/json\r\n"
)
BEATS_A_SECOND = 1 / SHORT_TIMING["renew_every_seconds"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: make system-deps")


@dataclass(slots=True)
class Host:
    """An agent, and a guest that it keeps the locks of."""

    cluster: SecureCluster
    folder: Path
    agent: Running
    guest: Running

    @property
    def api(self) -> str:
        return str(self.folder / "api.sock")

    @property
    def lock(self) -> str:
        return str(self.folder / "lock.sock")

    def counted(self, name: str) -> float:
        """One of the agent's numbers."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(10.0)
            link.connect(self.api)
            link.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            page = b"".join(iter(lambda: link.recv(65_536), b"")).decode()
        found = re.search(rf"^{name} (\S+)$", page, flags=re.MULTILINE)
        assert found, page
        return float(found[1])

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Within the block the session is proven at least at half of its usual pace, and the guest runs on."""
        before, began = self.counted("etcdlock_heartbeats_total"), time.monotonic()
        yield
        self.at_least(before + 3)
        seconds = time.monotonic() - began
        assert self.counted("etcdlock_heartbeats_total") - before >= 0.5 * BEATS_A_SECOND * (seconds - 1)
        assert self.guest.process.poll() is None
        assert "rejoined" not in self.agent.err
        assert [lock.stale for lock in self.cluster.survey().locks] == [False]

    def at_least(self, beats: float) -> None:
        deadline = time.monotonic() + 20.0
        while self.counted("etcdlock_heartbeats_total") < beats:
            assert time.monotonic() < deadline, self.agent.err
            time.sleep(0.1)


@pytest.fixture(scope="module")
def host(etcds: Etcds, pki: Pki) -> Iterator[Host]:
    """In a folder that everybody may look into, so that only the sockets' own rights keep anybody out."""
    folder = Path(tempfile.mkdtemp(prefix="etcdlock-open-"))
    folder.chmod(0o755)
    cluster = SecureCluster(etcds(DISTRO).endpoints[0], "blue", folder, timing=SHORT_TIMING, pki=pki)
    settings = on_host(folder) | pki.settings("hosts/a") | {"ETCDLOCK_API_GROUP": "nogroup"}
    try:
        agent = cluster.start("agent", **settings)
        agent.says("agent_ready")
        guest = cluster.guest("--via", "agent", "--disk", "/d", **settings)
        yield Host(cluster, folder, agent, guest)
        guest.send(signal.SIGTERM)
        guest.ended()
        agent.send(signal.SIGTERM)
        assert agent.ended().status == 0
    finally:
        left = cluster.close()
        shutil.rmtree(folder)
    assert left == ()


@contextmanager
def attack(uid: int, gid: int, what: str, path: str, number: int, *, first: bytes = b"") -> Iterator[str]:
    """What the attacker says of how far it came; it stays as it is within the block."""
    command = [sys.executable, str(ATTACKER), str(uid), str(gid), what, path, str(number)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attacker:
        assert attacker.stdin is not None
        assert attacker.stdout is not None
        try:
            if what == "send":
                attacker.stdin.write(first)
                attacker.stdin.close()
            yield attacker.stdout.readline().decode().strip()
        finally:
            attacker.kill()


@pytest.mark.parametrize("door", ["api", "lock"])
def test_a_stranger_cannot_even_connect(host: Host, door: str) -> None:
    with host.undisturbed(), attack(STRANGER, STRANGER, "idle", getattr(host, door), 1) as told:
        assert told == "denied"


@pytest.mark.parametrize("door", ["api", "lock"])
def test_a_stranger_who_may_connect_by_mistake_is_turned_away_by_who_it_is(host: Host, door: str) -> None:
    path = Path(getattr(host, door))
    mode = path.stat().st_mode & 0o777
    path.chmod(0o666)
    try:
        with host.undisturbed(), attack(STRANGER, STRANGER, "send", str(path), 1 << 20, first=ACQUIRE) as told:
            words = told.split(maxsplit=2)
            assert words[0] == "sent"
            assert words[2:] == (["HTTP/1.1 403 Forbidden"] if door == "api" else [])
    finally:
        path.chmod(mode)


def test_a_member_of_the_group_cannot_take_a_lock(host: Host) -> None:
    asked = ACQUIRE + b"content-length: 0\r\n\r\n"
    with host.undisturbed(), attack(STRANGER, GROUP, "send", host.api, 0, first=asked) as told:
        assert told == "sent 0 HTTP/1.1 403 Forbidden"


@pytest.mark.parametrize("who", [(0, 0), (STRANGER, GROUP)], ids=["root", "a member of the group"])
def test_a_request_of_a_gigabyte_is_cut_off_at_its_beginning(host: Host, who: tuple[int, int]) -> None:
    head = ACQUIRE + f"content-length: {GIB}\r\n\r\n".encode()
    before = memory(host.agent.process.pid)
    with host.undisturbed(), attack(*who, "send", host.api, GIB, first=head) as told:
        sent, _, status = told.removeprefix("sent ").partition(" ")
        assert int(sent) < 16 << 20
        assert status.split()[1] in ("413", "403")
    assert memory(host.agent.process.pid) - before < 32 << 20


def test_a_message_of_a_gigabyte_to_virtlockds_socket_is_cut_off_at_its_beginning(host: Host) -> None:
    before = memory(host.agent.process.pid)
    with host.undisturbed(), attack(0, 0, "send", host.lock, GIB, first=GIB.to_bytes(4, "big")) as told:
        assert told.startswith("sent ")
        assert int(told.split()[1]) < 16 << 20
    assert memory(host.agent.process.pid) - before < 32 << 20


@pytest.mark.parametrize(
    ("uid", "gid", "door"),
    [(STRANGER, GROUP, "api"), (0, 0, "lock")],
    ids=["a member of the group at the API", "root at virtlockd's socket"],
)
def test_ten_thousand_idle_connections_keep_nobody_from_anything(host: Host, uid: int, gid: int, door: str) -> None:
    with host.undisturbed(), attack(uid, gid, "idle", getattr(host, door), 10_000) as told:
        assert told == "connected 10000"
        done = host.cluster.do("status", "--via", "own", **host.cluster.pki.settings("readers/grafana"))
        assert done.status == 0


def memory(pid: int) -> int:
    """Resident, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_no_secret_is_in_a_command_line_an_environment_or_the_log(host: Host) -> None:
    key = Path(host.cluster.pki.file("hosts/a.key")).read_text().splitlines()[1]
    seen = host.agent.err
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                seen += (process / name).read_bytes().decode(errors="replace")
            except OSError:
                continue
    assert "hosts/a.key" in seen
    assert key not in seen
