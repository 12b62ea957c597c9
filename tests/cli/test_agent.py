"""The agent's command beside guests that run already: attached, looked at, and kept when it is told to end."""

from __future__ import annotations

import fcntl
import http.client
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from etcdlock.model import LockState
from tests.cli.hosts import DEADLINE_SECONDS, Cluster, Running
from tests.cli.site import on_host

XML = """
<domain type='kvm'>
  <name>vm1</name>
  <uuid>{uuid}</uuid>
  <devices><disk type='file' device='disk'><source file='/san/{uuid}'/><target dev='vda'/></disk></devices>
</domain>
"""


class Host:
    """One on which an agent can be started, and a guest that nobody has locked."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.settings = on_host(folder)
        self.uuid = uuid4()
        self.xml = folder / "vm1.xml"
        self.xml.write_text(XML.format(uuid=self.uuid), encoding="utf-8")
        self.guest = subprocess.Popen(["sleep", "300"], stdin=subprocess.DEVNULL)

    def agent(self, *arguments: str) -> Running:
        agent = self.cluster.start("agent", *arguments, **self.settings)
        agent.says("agent_ready")
        return agent

    def attach(self) -> None:
        done = self.cluster.do("attach", str(self.xml), "--pid", str(self.guest.pid), **self.settings)
        assert (done.status, done.err) == (0, ""), done.err

    @contextmanager
    def asked(self, target: str) -> Iterator[http.client.HTTPResponse]:
        """The agent's answer, while it is read."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(DEADLINE_SECONDS)
        with closing(connection.sock), closing(connection):
            connection.sock.connect(self.settings["ETCDLOCK_API_SOCKET"])
            connection.request("GET", target)
            with closing(connection.getresponse()) as response:
                yield response

    def end_guest(self) -> None:
        """Its locks are given back on return, if an agent runs."""
        self.guest.kill()
        self.guest.wait()

    def until_free(self) -> None:
        self.cluster.until(lambda survey: survey.lock_of(self.uuid) is None)


@pytest.fixture
def host(cluster: Cluster, tmp_path: Path) -> Iterator[Host]:
    host = Host(cluster, tmp_path)
    yield host
    host.end_guest()


def test_a_guest_that_was_started_without_an_agent_is_attached_and_its_locks_go_with_it(host: Host) -> None:
    agent = host.agent()
    host.attach()
    lock = host.cluster.survey().lock_of(host.uuid)
    assert lock is not None
    assert (lock.stored.record.pid, lock.stored.record.state) == (host.guest.pid, LockState.HELD)
    assert [resource.path for resource in lock.stored.record.resources] == [f"/san/{host.uuid}"]
    host.attach()  # once more is a success
    host.end_guest()
    host.until_free()
    agent.send(signal.SIGTERM)
    assert agent.ended().status == 0


def test_a_guest_whose_disk_another_holds_is_not_attached_and_the_holder_is_named(host: Host) -> None:
    agent, other = host.agent(), host.cluster.guest("--name", "other", "--disk", f"/san/{host.uuid}", host="b")
    arguments = ("attach", str(host.xml), "--pid", str(host.guest.pid))
    done, as_json = host.cluster.do_all(arguments, (*arguments, "--json"), **host.settings)
    assert (done.status, "other" in done.err, "host b" in done.err) == (100, True, True)
    assert as_json.document()["blockers"][0]["domain"]["name"] == "other"
    for running in (other, agent):
        running.send(signal.SIGTERM)
        running.ended()


def test_what_cannot_be_attached_is_said_before_anybody_is_asked(host: Host) -> None:
    xml = str(host.xml)
    no_pid, nobody, no_agent = host.cluster.do_all(
        ["attach", xml], ["attach", "no-such-guest"], ["attach", xml, "--pid", str(host.guest.pid)], **host.settings
    )
    assert (no_pid.status, "give --pid PID" in no_pid.err) == (2, True)
    assert (nobody.status, "libvirt runs no guest 'no-such-guest' on this host" in nobody.err) == (2, True)
    assert (no_agent.status, "no agent answers" in no_agent.err) == (101, True)


def test_an_agent_that_refuses_to_end_while_guests_run_goes_on_and_ends_once_they_are_gone(host: Host) -> None:
    agent = host.agent("--on-guests", "refuse")
    host.attach()
    agent.send(signal.SIGTERM)
    agent.says("stop_refused")
    assert f"vm1 (process {host.guest.pid})" in agent.err
    host.attach()  # it still serves
    host.end_guest()
    host.until_free()
    agent.says("guest_gone")
    agent.send(signal.SIGTERM)
    assert agent.ended().status == 0


@pytest.mark.parametrize(("arguments", "times"), [((), 1), (("--on-guests", "refuse"), 2)])
def test_an_agent_that_ends_while_a_guest_runs_leaves_its_locks_to_the_next(
    host: Host, arguments: tuple[str, ...], times: int
) -> None:
    agent = host.agent(*arguments)
    host.attach()
    before = _lock(host.cluster, host.uuid)
    for _ in range(times - 1):
        agent.send(signal.SIGTERM)
        agent.says("stop_refused")
    agent.send(signal.SIGTERM)
    assert agent.ended().status == 0
    assert "session_left_standing" in agent.err
    assert _lock(host.cluster, host.uuid) == before
    assert host.guest.poll() is None
    following = host.agent()
    assert "session_resumed" in following.err
    assert _lock(host.cluster, host.uuid) == before
    host.end_guest()
    host.until_free()
    following.send(signal.SIGTERM)
    assert following.ended().status == 0


def _lock(cluster: Cluster, uuid: UUID) -> tuple[int, str]:
    lock = cluster.survey().lock_of(uuid)
    assert lock is not None
    return lock.stored.token, str(lock.stored.record.owner)


def test_the_agent_shows_its_numbers_and_its_events_and_a_reader_does_not_keep_it_from_ending(host: Host) -> None:
    agent = host.agent()
    with host.asked("/v1/events") as events:
        assert events.readline() == b": follow\n"
        host.attach()
        read = b""
        while b"event: acquired" not in read:
            read += events.readline()
        with host.asked("/metrics") as answer:
            metrics = answer.read().decode()
        assert 'etcdlock_locks{mode="exclusive",state="held"} 1.0' in metrics
        assert "etcdlock_sessions_joined_total 1.0" in metrics
        host.end_guest()
        host.until_free()
        agent.send(signal.SIGTERM)
        assert agent.ended().status == 0
        assert b"event: released\n" in events.read()


# --- a log that nobody reads ----------------------------------------------------------------------------------------


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The writing end: whoever writes one byte more waits."""
    reader, writer = os.pipe()
    os.write(writer, b"." * fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ))
    assert select.select((), (writer,), (), 0)[1] == []
    yield writer
    os.close(writer)
    os.close(reader)


@contextmanager
def unread(cluster: Cluster, writer: int, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """`etcdlock` with `writer` for its standard error; it is gone afterwards."""
    running = subprocess.Popen(
        [sys.executable, "-m", "etcdlock", *arguments],
        env=cluster.environment("a", {**settings, "ETCDLOCK_LOG_LEVEL": "debug"}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=writer,
    )
    try:
        yield running
    finally:
        running.terminate()
        with suppress(subprocess.TimeoutExpired):
            running.wait(5)
        running.kill()
        running.communicate()


def test_a_run_whose_log_nobody_reads_starts_its_guest_and_goes_on_proving_its_session(
    quick_cluster: Cluster, full_pipe: int
) -> None:
    command = ("run", "--disk", "/san/x", "--", "sh", "-c", "echo runs; exec sleep 300 2>/dev/null")
    with unread(quick_cluster, full_pipe, *command) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"runs\n"
        _prove_twice(quick_cluster)
        running.send_signal(signal.SIGTERM)
        assert running.wait(DEADLINE_SECONDS) == 128 + signal.SIGTERM


def test_an_agent_whose_log_nobody_reads_goes_on_proving_its_session_and_ends(
    quick_cluster: Cluster, full_pipe: int, tmp_path: Path
) -> None:
    settings = on_host(tmp_path)
    with unread(quick_cluster, full_pipe, "agent", **settings) as running:
        quick_cluster.until(lambda survey: bool(survey.sessions))
        _prove_twice(quick_cluster)
        running.send_signal(signal.SIGTERM)
        assert running.wait(DEADLINE_SECONDS) == 0


def _prove_twice(cluster: Cluster) -> None:
    """Only a heartbeat finds that its session has been revoked: then it joins anew, and so it does once more."""
    for _ in range(2):
        before = {view.ref for view in cluster.survey().sessions if view.record}
        cluster.revoke_sessions("a")
        cluster.until(lambda survey, before=before: {v.ref for v in survey.sessions if v.record} - before != set())  # type: ignore[misc]
