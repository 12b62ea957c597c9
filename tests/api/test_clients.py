"""Clients that vanish, wait in vain, or hang, and an agent that goes on as if they had not been there."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from etcdlock.api.behind import Domains
from etcdlock.api.client import AgentClient
from etcdlock.errors import OutcomeUnknown, Unreachable
from etcdlock.escalation import Action
from etcdlock.model import LockState, Owner, Resource, StoredDomain
from tests.api.serving import ApiHost, Serving
from tests.promises.world import disk, domain

VM, A = domain(0x1234), disk("a")


class Slow:
    """Answers nothing before it is told to."""

    def __init__(self) -> None:
        self.asked, self.go, self.done = threading.Event(), asyncio.Event(), threading.Event()

    async def acquire(
        self, owner: Owner, resources: tuple[Resource, ...], /, *, on_session_lost: Action | None = None
    ) -> StoredDomain:
        assert on_session_lost is None
        self.asked.set()
        await self.go.wait()
        self.done.set()
        raise Unreachable(f"{owner} {resources}")


def test_what_was_begun_goes_on_though_its_caller_has_gone(hosts: Serving) -> None:
    behind = Slow()
    alice = hosts.host("alice", domains=cast("Domains", behind))
    with pytest.raises(OutcomeUnknown, match="answer was lost"):
        AgentClient(alice.path, timeout_seconds=0.3).acquire(Owner(VM, 1), (A,))
    assert behind.asked.wait(10.0)
    assert not behind.done.is_set()
    hosts.soon(behind.go.set)
    assert behind.done.wait(10.0)


def test_a_caller_is_told_in_time_that_it_is_not_known_yet(hosts: Serving) -> None:
    behind = Slow()
    alice = hosts.host("alice", domains=cast("Domains", behind), answer_seconds=0.3)
    with pytest.raises(OutcomeUnknown, match=r"not done within 0\.3 s; it goes on"):
        alice.client.acquire(Owner(VM, 1), (A,))
    hosts.soon(behind.go.set)
    assert behind.done.wait(10.0)


def test_an_agent_that_hangs_up_leaves_a_change_unknown_and_a_look_merely_unanswered(tmp_path: Path) -> None:
    path = str(tmp_path / "dead.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()

        def hang_up() -> None:
            for _ in range(2):
                listening.accept()[0].close()

        hanging_up = threading.Thread(target=hang_up)
        hanging_up.start()
        client = AgentClient(path, timeout_seconds=5.0)
        with pytest.raises(OutcomeUnknown):
            client.unpark(VM.uuid)
        with pytest.raises(Unreachable):
            client.status()
        hanging_up.join(10.0)


def test_where_no_agent_listens_nothing_was_done(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no agent answers"):
        AgentClient(str(tmp_path / "none.sock")).unpark(VM.uuid)


def test_an_etcd_that_is_away_is_said_to_be_and_not_taken_for_a_no(hosts: Serving, alice: ApiHost) -> None:
    owner, guest = alice.start(VM, A)
    alice.client.acquire(owner, (A,))
    hosts.soon(alice.hypervisor.host.store.cut)
    with pytest.raises(Unreachable):
        alice.client.status()
    assert alice.client.agent()["guests"][0]["state"] == "held"
    hosts.soon(alice.hypervisor.host.store.mend)
    assert alice.client.unpark(VM.uuid)["state"] == "held"
    assert guest.killed_at is None
    assert alice.hypervisor.state(VM) is LockState.HELD


def test_hanging_clients_do_not_hold_up_heartbeats(hosts: Serving, alice: ApiHost) -> None:
    hanging: list[Any] = []
    for _ in range(100):
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(alice.path)
        connected.sendall(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n" * 20)
        hanging.append(connected)
    member = alice.hypervisor.agent.member if alice.hypervisor.agent else None
    assert member is not None
    before = member.session.proven_at
    hosts.call(asyncio.sleep(3.0))  # a heartbeat is due every 2 s of real time
    assert member.session.proven_at > before
    for connected in hanging:
        connected.close()
