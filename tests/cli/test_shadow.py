"""Shadow mode: every answer is yes, no guest is touched, the real cluster is not written, and the record tells all."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.api.client import AgentClient
from etcdlock.config import SHADOW
from etcdlock.driver import LockManager, load
from etcdlock.errors import NotLocked, Unreachable
from etcdlock.libvirt.procedure import AcquireResource, ReleaseResource, Request
from etcdlock.libvirt.remote_error import RemoteError
from etcdlock.model import Mode, Owner, Resource
from etcdlock.ports import Delete, KeyRange
from tests.cli.hosts import SHORT_TIMING, Cluster, Running, children
from tests.cli.site import on_host
from tests.door.conversation import VM1, VM2, Client, register

DISK = "/san/shared-by-mistake"


@dataclass(slots=True)
class ShadowHost:
    """A host whose agent is in shadow mode, and its guests, which are real processes."""

    cluster: Cluster
    name: str
    folder: Path
    guests: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, str]:
        return on_host(self.folder) | {"ETCDLOCK_MODE": "shadow", "ETCDLOCK_ACQUIRE_SECONDS": "1"}

    def agent(self, *, says: str = "agent_ready", **settings: str) -> Running:
        agent = self.cluster.start("agent", host=self.name, **self.settings | settings)
        agent.says(says)
        return agent

    def guest(self) -> subprocess.Popen[bytes]:
        self.guests.append(subprocess.Popen(["sleep", "300"], stdin=subprocess.DEVNULL))
        return self.guests[-1]

    def libvirt_asks(self, owner: Owner, *requests: Request) -> list[RemoteError | None]:
        """As libvirtd does, on the socket that it believes to be virtlockd's."""

        async def ask() -> list[RemoteError | None]:
            path = self.settings["ETCDLOCK_LOCK_SOCKET"]
            client = Client(*await asyncio.open_unix_connection(path))
            try:
                return [await client.ask(request) for request in (register(owner), *requests)]
            finally:
                await client.close()

        return asyncio.run(ask())

    def start(self, owner: Owner, disk: str = DISK) -> list[RemoteError | None]:
        return self.libvirt_asks(owner, AcquireResource("", disk))

    def report(self) -> Any:
        done = self.cluster.do("shadow", "--json", host=self.name, **self.settings)
        assert done.status in (0, 107), done.err
        return done.document()

    def end(self) -> None:
        for guest in self.guests:
            guest.kill()
            guest.wait()


def shadow_of(cluster: Cluster) -> Cluster:
    """The same etcd under the name in which shadow mode keeps its locks."""
    return Cluster(cluster.endpoint, cluster.name + SHADOW, cluster.folder, timing=cluster.timing)


@pytest.fixture
def pair(quick_cluster: Cluster, tmp_path: Path) -> Iterator[tuple[ShadowHost, ShadowHost]]:
    """Two of them; what they have written is in a cluster of their own, and nothing in the real one."""
    hosts = tuple(ShadowHost(quick_cluster, name, tmp_path / name) for name in "ab")
    yield hosts[0], hosts[1]
    for host in hosts:
        host.end()
    for running in quick_cluster.started:
        running.send(signal.SIGTERM)
        assert running.ended().status == 0
    assert quick_cluster.snapshot().found == (), "the real cluster was written"
    shadow_of(quick_cluster).close()


def test_a_guest_that_two_hosts_start_runs_on_both_and_the_report_names_who_had_it(
    pair: tuple[ShadowHost, ShadowHost],
) -> None:
    a, b = pair
    agent = a.agent()
    b.agent()
    one, other = Owner(VM1, a.guest().pid), Owner(VM2, b.guest().pid)
    assert a.start(one) == [None, None]
    shadow_of(a.cluster).until(lambda survey: survey.lock_of(VM1.uuid) is not None)
    assert b.start(other) == [None, None]
    b.cluster.started[1].says("would_have_refused")
    (row,) = b.report()["refused"]
    assert (row["domain"], row["reason"], row["resources"], row["times"]) == ("vm2", "HeldElsewhere", DISK, 1)
    assert row["holders"] == "domain vm1 on host a"
    assert a.report()["refused"] == []
    again, shown, status, doctor = a.cluster.do_all(
        ["shadow"], ["shadow", "--json"], ["status"], ["doctor", "--json"], host="b", **b.settings
    )
    assert (again.status, shown.status) == (107, 107)
    assert "held by domain vm1 on host a" in again.out
    assert status.out.startswith("SHADOW MODE: nothing is refused or stopped")
    assert any("this host is in shadow mode" in finding["text"] for finding in doctor.document()["findings"])
    assert children(agent.process.pid) == [], "something was started that could stop a guest"
    client = AgentClient(b.settings["ETCDLOCK_API_SOCKET"])
    assert client.agent()["mode"] == "shadow"
    assert b.libvirt_asks(other, ReleaseResource("", DISK)) == [None, None]  # which follows from the first no
    assert len(b.report()["refused"]) == 1


def test_programs_and_run_are_told_yes_too(pair: tuple[ShadowHost, ShadowHost]) -> None:
    a, b = pair
    a.agent()
    b.agent()
    assert a.start(Owner(VM1, a.guest().pid)) == [None, None]
    shadow_of(a.cluster).until(lambda survey: survey.lock_of(VM1.uuid) is not None)
    client, owner = AgentClient(b.settings["ETCDLOCK_API_SOCKET"]), Owner(VM2, b.guest().pid)
    disk = Resource("", "", Mode.EXCLUSIVE, DISK)
    for said in (client.acquire(owner, (disk,)), client.unpark(VM2.uuid), client.add(VM2.uuid, disk)):
        assert (said["held"], said["host"], said["token"]) == (True, "b", 0)
    assert client.park(VM2.uuid)["state"] == "parked"
    settings = b.settings | {"ETCDLOCK_LOG_LEVEL": "warning"}
    ran = b.cluster.do("run", "--disk", DISK, "--", "echo", "ran", host="b", **settings)
    assert (ran.status, ran.out, ran.err) == (0, "ran\n", "")
    alone = b.cluster.do("run", "--via", "own", "--disk", DISK, "--", "echo", "ran", host="b", **settings)
    assert (alone.status, alone.out) == (0, "ran\n")
    assert f"is locked for real, in cluster {a.cluster.name}" in alone.err
    asked = {row["asked"]: row["times"] for row in b.report()["refused"]}
    assert asked["acquire"] >= 1
    a.cluster.do_in_etcd(Delete(KeyRange(a.cluster.keys.contract)))  # which the one that was alone has made


def test_a_management_program_goes_on_with_a_guest_that_would_have_been_refused(
    pair: tuple[ShadowHost, ShadowHost],
) -> None:
    a, b = pair
    a.agent()
    b.agent()
    assert a.start(Owner(VM1, a.guest().pid)) == [None, None]
    shadow_of(a.cluster).until(lambda survey: survey.lock_of(VM1.uuid) is not None)
    goes_on_with_its_guest(b)


def goes_on_with_its_guest(host: ShadowHost) -> None:
    """A management program that embeds the lock manager, and is started anew: then it ends what is not its own."""
    config = host.folder / "etcdlock.toml"
    config.write_text(f"""
        mode = "shadow"
        cluster = "{host.cluster.name}"
        endpoints = ["{host.cluster.endpoint}"]
        host_id = "{host.name}"
        disk_identity = "path"
        api_socket = "{host.settings["ETCDLOCK_API_SOCKET"]}"
        timing = {{ {", ".join(f"{name} = {value}" for name, value in host.cluster.timing.items())} }}
    """)
    with load("agent", config=config) as driver:
        manager = LockManager(driver, VM2)
        manager.register(DISK)
        host.guests.append(manager.start(("sleep", "300")))
        assert manager.acquire(state=manager.suspend()).held
        again = LockManager.attach(driver, VM2)
        assert again.guest_pid() == host.guests[-1].pid
        host.guests[-1].kill()
        host.guests[-1].wait()
        again.release()
        with pytest.raises((NotLocked, Unreachable)):
            LockManager.attach(driver, VM2)


def test_a_guest_outlives_what_would_have_killed_it_an_outage_and_a_lost_lock(tmp_path: Path) -> None:
    with EmbeddedEtcd() as etcd:
        cluster = Cluster(etcd.endpoints[0], "trial", tmp_path, timing=SHORT_TIMING)
        host, shadow = ShadowHost(cluster, "a", tmp_path / "a"), shadow_of(cluster)
        try:
            agent = host.agent()
            guest = host.guest()
            owner = Owner(VM1, guest.pid)
            assert host.start(owner) == [None, None]
            shadow.until(lambda survey: survey.lock_of(VM1.uuid) is not None)
            etcd.pause()
            agent.says("would_have_stopped")
            later = Owner(VM2, host.guest().pid)
            begun = time.monotonic()
            assert host.start(later, "/san/later") == [None, None]
            assert time.monotonic() - begun < 1.0
            etcd.resume()
            shadow.until(lambda survey: survey.lock_of(VM2.uuid) is not None)  # it is asked for again
            assert guest.poll() is None
            shadow.do_in_etcd(Delete(KeyRange(shadow.keys.domain(VM1.uuid))))
            shadow.revoke_sessions("a")
            agent.says('reason="lock lost"')
            assert guest.poll() is None
            stopped = {(row["domain"], row["reason"], row["first_action"]) for row in host.report()["stopped"]}
            assert stopped >= {("vm1", "session not proven", "kill"), ("vm1", "lock lost", "kill")}
            assert cluster.snapshot().found == ()
        finally:
            host.end()
            for running in cluster.started:
                running.end()


def test_libvirt_and_programs_are_told_yes_where_no_etcd_has_ever_answered(tmp_path: Path) -> None:
    cluster = Cluster("127.0.0.1:1", "nowhere", tmp_path, timing=SHORT_TIMING)
    host = ShadowHost(cluster, "a", tmp_path / "a")
    try:
        agent = host.agent(says="shadow_began")
        assert "no guest of this host is protected" in agent.err
        owner = Owner(VM1, host.guest().pid)
        assert host.libvirt_asks(owner, AcquireResource("", DISK), ReleaseResource("", DISK)) == [None, None, None]
        agent.says("would_have_refused")
        assert ("take", "Unreachable") in {(row["asked"], row["reason"]) for row in host.report()["refused"]}
        assert AgentClient(host.settings["ETCDLOCK_API_SOCKET"]).agent()["phase"] == "joining"
        goes_on_with_its_guest(host)
        agent.send(signal.SIGTERM)
        assert agent.ended().status == 0
    finally:
        host.end()
        for running in cluster.started:
            running.end()


def test_it_does_not_start_beside_what_this_host_has_locked_for_real(cluster: Cluster, tmp_path: Path) -> None:
    settings = on_host(tmp_path)
    guest = subprocess.Popen(["sleep", "300"], stdin=subprocess.DEVNULL)
    try:
        real = cluster.start("agent", **settings)
        real.says("agent_ready")
        owner, client = Owner(VM1, guest.pid), AgentClient(settings["ETCDLOCK_API_SOCKET"])
        client.acquire(owner, (Resource("", "", Mode.EXCLUSIVE, DISK),))
        real.send(signal.SIGKILL)
        real.ended()
        in_shadow = settings | {"ETCDLOCK_MODE": "shadow"}
        by_guard = cluster.do("agent", **in_shadow)
        assert (by_guard.status, "an earlier agent's guard" in by_guard.err) == (104, True), by_guard.err
        by_etcd = cluster.do("agent", **in_shadow | {"ETCDLOCK_RUN_FOLDER": str(tmp_path / "elsewhere")})
        assert (by_etcd.status, "has locked vm1 for real" in by_etcd.err) == (104, True), by_etcd.err
        back = cluster.start("agent", **settings)  # as it was told to be started
        back.says("adopted")
        guest.kill()
        guest.wait()
        cluster.until(lambda survey: survey.lock_of(VM1.uuid) is None)
        back.send(signal.SIGTERM)
        assert back.ended().status == 0
    finally:
        guest.kill()
        guest.wait()


def test_an_agent_that_enforces_has_no_cluster_of_that_name(quick_cluster: Cluster, tmp_path: Path) -> None:
    done = quick_cluster.do("agent", "--cluster", f"x{SHADOW}", **on_host(tmp_path))
    assert (done.status, "for agents whose mode is 'shadow'" in done.err) == (2, True)
