"""Every endpoint over a real socket with the real client, asked once and, as after a lost answer, once more."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from etcdlock.errors import (
    HeldElsewhere,
    InvalidInput,
    NoSuchGuest,
    NotClaimed,
    NotLocked,
    Refused,
    SessionAlive,
    Superseded,
)
from etcdlock.model import DomainId, LockState, Mode, Owner, Resource, SessionRef
from tests.api.serving import ApiHost, Serving
from tests.promises.world import KEYS, disk, domain

VM, OTHER = domain(0x1234), domain(0x5678)
A, B, C = disk("a"), disk("b"), disk("c")


def twice(ask: Any, *arguments: Any) -> Any:
    """The answer, which is the same when its loss makes the caller ask again."""
    first = ask(*arguments)
    assert ask(*arguments) == first
    return first


def names(lock: dict[str, Any]) -> list[str]:
    return sorted(resource["path"] for resource in lock["resources"])


def started(host: ApiHost, who: DomainId = VM, *disks: Resource) -> Owner:
    """A guest that holds these, and may run."""
    owner, _ = host.start(who, *disks)
    host.client.acquire(owner, disks)
    return owner


def test_a_domain_is_locked_with_all_it_needs_in_one_revision(alice: ApiHost) -> None:
    owner, _ = alice.start(VM)
    lock = twice(alice.client.acquire, owner, (A, B, disk("iso", Mode.READ_ONLY)))
    assert lock["held"]
    assert (lock["host"], lock["state"], lock["pid"]) == ("alice", "held", owner.pid)
    assert names(lock) == ["/san/a", "/san/b"]
    stored = alice.hypervisor.record(VM)
    assert stored is not None
    assert stored.token == lock["token"]
    assert {item.mod_revision for item in alice.serving.world.etcd.contents(KEYS.resources)} == {stored.mod_revision}


def test_nothing_is_locked_if_one_of_the_disks_is_held_elsewhere(alice: ApiHost, bob: ApiHost) -> None:
    started(bob, OTHER, B)
    owner, _ = alice.start(VM)
    with pytest.raises(HeldElsewhere, match="disk /san/b is held by domain") as refused:
        alice.client.acquire(owner, (A, B))
    (blocker,) = refused.value.blockers
    assert (blocker.domain, blocker.resource, blocker.state, blocker.alive) == (OTHER, B, LockState.HELD, True)
    assert isinstance(blocker.owner, SessionRef)
    assert blocker.owner.host == "bob"
    assert refused.value.revision > 0
    assert alice.hypervisor.record(VM) is None


def test_a_lock_taken_before_is_not_silently_one_for_more_disks(alice: ApiHost) -> None:
    owner = started(alice, VM, A)
    with pytest.raises(Refused, match="locked already, but without /san/b"):
        alice.client.acquire(owner, (A, B))


def test_no_lock_is_taken_for_a_process_that_does_not_exist(alice: ApiHost) -> None:
    with pytest.raises(NoSuchGuest):
        alice.client.acquire(Owner(VM, 4_000_000), (A,))
    assert alice.hypervisor.record(VM) is None


def test_a_release_is_refused_while_the_process_lives_and_a_success_once_it_has_ended(alice: ApiHost) -> None:
    owner, guest = alice.start(VM, A)
    alice.client.acquire(owner, (A,))
    with pytest.raises(Refused, match="lives: its locks stay with it"):
        alice.client.release(VM.uuid)
    assert alice.hypervisor.state(VM) is LockState.HELD
    alice.end(guest)
    assert not twice(alice.client.release, VM.uuid)["held"]
    assert alice.hypervisor.record(VM) is None


def test_a_guest_that_runs_without_locks_is_attached(alice: ApiHost) -> None:
    owner, _ = alice.start(VM, A)
    assert twice(alice.client.attach, owner, (A,))["held"]


def test_a_guest_that_cannot_be_attached_is_told_of_loudly_and_left_running(
    alice: ApiHost, bob: ApiHost, caplog: pytest.LogCaptureFixture
) -> None:
    started(bob, OTHER, A)
    owner, guest = alice.start(VM, A)
    with pytest.raises(HeldElsewhere) as refused:
        alice.client.attach(owner, (A,))
    assert "runs without its locks" in refused.value.hint
    loud = [record for record in caplog.records if record.message == "runs_unprotected"]
    assert [record.levelname for record in loud] == ["CRITICAL"]
    assert guest.killed_at is None
    assert guest.pid not in alice.hypervisor.guard.armed


def test_a_guest_that_another_has_claimed_is_not_disarmed_for_being_attached(alice: ApiHost, bob: ApiHost) -> None:
    owner = started(alice, VM, A)
    arriving, _ = bob.start(VM)
    alice.client.prepare(VM.uuid)
    bob.client.incoming(arriving, (A,))
    with pytest.raises(Superseded):
        alice.client.cancel(VM.uuid)
    with pytest.raises(Superseded):
        alice.client.attach(owner, (A,))
    assert owner.pid in alice.hypervisor.guard.armed


def test_a_guest_is_parked_and_let_run_again(alice: ApiHost) -> None:
    started(alice, VM, A)
    parked = twice(alice.client.park, VM.uuid)
    assert parked["state"] == "parked"
    assert alice.hypervisor.state(VM) is LockState.PARKED
    assert twice(alice.client.unpark, VM.uuid)["state"] == "held"


def test_a_parked_guest_is_not_let_run_by_an_acquire_that_comes_late(alice: ApiHost) -> None:
    owner = started(alice, VM, A)
    alice.client.park(VM.uuid)
    with pytest.raises(Refused, match="parked"):
        alice.client.acquire(owner, (A,))
    assert alice.hypervisor.state(VM) is LockState.PARKED


def test_disks_come_and_go(alice: ApiHost) -> None:
    started(alice, VM, A)
    assert names(twice(alice.client.add, VM.uuid, B)) == ["/san/a", "/san/b"]
    assert names(twice(alice.client.remove, VM.uuid, B)) == ["/san/a"]


def test_a_disk_is_not_given_back_while_the_guest_has_it_open(alice: ApiHost) -> None:
    started(alice, VM, A)
    with pytest.raises(Refused, match="may still have it open"):
        alice.client.remove(VM.uuid, A)
    assert names(alice.client.add(VM.uuid, A)) == ["/san/a"]


@pytest.mark.parametrize("call", ["park", "unpark", "prepare", "cancel", "incoming_complete"])
def test_of_a_domain_that_no_guest_here_has_nothing_can_be_changed(alice: ApiHost, call: str) -> None:
    with pytest.raises(NotLocked):
        getattr(alice.client, call)(VM.uuid)
    with pytest.raises(NotLocked):
        alice.client.add(VM.uuid, A)
    with pytest.raises(NotLocked):
        alice.client.remove(VM.uuid, A)


def test_a_migration_changes_the_owner_in_one_revision(alice: ApiHost, bob: ApiHost) -> None:
    started(alice, VM, A)
    arriving, _ = bob.start(VM)
    twice(alice.client.prepare, VM.uuid)
    with pytest.raises(NotClaimed):
        alice.client.complete(VM.uuid)
    claimed = twice(bob.client.incoming, arriving, (A,))
    assert (claimed["host"], claimed["held"]) == ("bob", True)
    assert twice(alice.client.complete, VM.uuid)["host"] == "bob"
    with pytest.raises(Superseded):
        alice.client.cancel(VM.uuid)
    assert twice(bob.client.incoming_complete, VM.uuid)["token"] == claimed["token"]
    with pytest.raises(Refused, match="may run here already"):
        bob.client.incoming_cancel(VM.uuid)


def test_a_migration_is_cancelled_on_both_sides_and_the_source_runs_on(alice: ApiHost, bob: ApiHost) -> None:
    started(alice, VM, A)
    arriving, _ = bob.start(VM)
    before = alice.client.prepare(VM.uuid)
    bob.client.incoming(arriving, (A, C))
    back = twice(bob.client.incoming_cancel, VM.uuid)
    assert (back["host"], back["state"], back["token"]) == ("alice", "parked", before["token"])
    assert names(back) == ["/san/a"]
    assert twice(alice.client.cancel, VM.uuid)["state"] == "held"
    with pytest.raises(NotLocked):
        bob.client.incoming_complete(VM.uuid)


def test_a_guest_that_migrates_in_is_let_run_by_nothing_but_the_migrations_end(alice: ApiHost, bob: ApiHost) -> None:
    started(alice, VM, A)
    arriving, _ = bob.start(VM)
    alice.client.prepare(VM.uuid)
    bob.client.incoming(arriving, (A,))
    for ask in (bob.client.unpark, bob.client.park):
        with pytest.raises(Refused, match="is migrating in"):
            ask(VM.uuid)
    with pytest.raises(Refused, match="is migrating in"):
        bob.client.acquire(arriving, (A,))
    assert bob.hypervisor.state(VM) is LockState.HELD
    bob.client.incoming_cancel(VM.uuid)
    assert alice.client.cancel(VM.uuid)["held"]


def test_an_arrival_that_is_announced_again_after_its_end_cannot_be_cancelled(alice: ApiHost, bob: ApiHost) -> None:
    started(alice, VM, A)
    arriving, _ = bob.start(VM)
    alice.client.prepare(VM.uuid)
    bob.client.incoming(arriving, (A,))
    bob.client.incoming_complete(VM.uuid)
    bob.client.incoming(arriving, (A,))
    with pytest.raises(Refused, match="may run here already"):
        bob.client.incoming_cancel(VM.uuid)


def test_an_arrival_of_what_nobody_holds_is_an_acquire_that_can_be_cancelled(bob: ApiHost) -> None:
    arriving, _ = bob.start(VM)
    assert twice(bob.client.incoming, arriving, (A, B))["held"]
    assert not twice(bob.client.incoming_cancel, VM.uuid)["held"]
    assert bob.hypervisor.record(VM) is None


def test_the_cluster_is_shown_as_on_the_command_line(alice: ApiHost, bob: ApiHost) -> None:
    started(alice, VM, A)
    status = bob.client.status()
    assert [lock["host"] for lock in status["locks"]] == ["alice"]
    assert status["cluster"] == "default"
    assert {session["host"] for session in bob.client.hosts()["sessions"]} == {"alice", "bob"}
    for found in (bob.client.inquire_domain(str(VM.uuid)), bob.client.inquire_domain(VM.name)):
        assert [blocker["host"] for blocker in found["blockers"]] == ["alice"]
    assert not bob.client.inquire_disk("/san/a")["free"]
    assert bob.client.inquire_disk("/san/nobody's")["free"]
    with pytest.raises(InvalidInput, match="absolute"):
        bob.client.inquire_disk("san")


def test_the_agent_tells_of_itself_and_its_guests(alice: ApiHost) -> None:
    owner = started(alice, VM, A)
    agent = alice.client.agent()
    assert (agent["host"], agent["phase"], agent["endpoint"]) == ("alice", "live", "etcd:2379")
    assert 0 < agent["seconds_to_stop"] < 20
    (guest,) = agent["guests"]
    assert (guest["pid"], guest["state"], guest["domain"]["uuid"]) == (owner.pid, "held", str(VM.uuid))


def test_a_host_that_lives_is_not_declared_dead_and_one_without_a_session_is(hosts: Serving, alice: ApiHost) -> None:
    bob = hosts.host("bob")
    started(bob, VM, A)
    confirmed = {"confirmed_by": "admin", "reason": "pulled the plug"}
    with pytest.raises(SessionAlive):
        alice.client.declare_dead("bob", **confirmed)
    hosts.soon(bob.hypervisor.kill_agent)
    (lease,) = hosts.world.leases(bob.hypervisor.host)
    hosts.soon(lambda: hosts.world.etcd.revoke_wrongly(lease))
    done = alice.client.declare_dead("bob", **confirmed)
    assert [(proof["host"], proof["by"]) for proof in done["obituaries"]] == [("bob", "admin")]
    assert [freed["uuid"] for freed in done["freed"]] == [str(VM.uuid)]
    assert alice.client.declare_dead("bob", **confirmed)["obituaries"] == []
    with pytest.raises(InvalidInput, match="cannot be printed"):
        alice.client.declare_dead("bob", confirmed_by="\x1b", reason="x")
    with pytest.raises(InvalidInput, match="no host or session"):
        alice.client.declare_dead("carol", **confirmed)


@pytest.mark.parametrize("uuid", [UUID(int=0), UUID(int=2**128 - 1)])
def test_a_placeholder_is_no_domain(alice: ApiHost, uuid: UUID) -> None:
    with pytest.raises(InvalidInput, match="placeholder"):
        alice.client.unpark(uuid)
