"""What drivers show that lock across hosts, or outlive the management program."""

from __future__ import annotations

import subprocess
from uuid import uuid4

import pytest

from etcdlock.driver import Capability, DomainId, LockManager, LockState
from etcdlock.errors import HeldElsewhere, InvalidInput, NotClaimed, NotLocked, NotTheOwner, Refused, Superseded
from tests.driver.declared import proves
from tests.driver.places import Hand


@proves(Capability.CLUSTER, Capability.EXCLUSION)
def test_two_hosts_exclude_each_other_whatever_file_systems_they_share(hand: Hand) -> None:
    hand.start(hand.manager(hand.disk))
    with pytest.raises(HeldElsewhere):
        hand.other(hand.disk, host="b").start(("sleep", "300"))
    found = hand.manager(host="b").inquire()
    assert found is not None
    assert (found.host, found.held) == ("a", False)


@proves(Capability.ATTACH)
def test_another_program_finds_the_guest_again_with_its_locks(hand: Hand) -> None:
    manager = hand.manager(hand.disk)
    guest = hand.start(manager)
    manager.free()
    with pytest.raises(NotTheOwner):
        LockManager.attach(hand.place.on("a"), hand.domain, pid=1)
    again = LockManager.attach(hand.place.on("a"), hand.domain, pid=guest.pid)
    assert again.guest_pid() == guest.pid
    state = again.suspend()
    assert again.acquire(state=state).state is LockState.HELD
    with pytest.raises(NotLocked):
        LockManager.attach(hand.place.on("a"), DomainId(uuid4(), "nobody"))
    with pytest.raises(NotLocked):
        LockManager.attach(hand.place.on("b"), hand.domain)
    hand.end(again, guest)
    assert again.inquire() is None
    hand.start(again)  # the domain's next guest, like any other
    assert manager.inquire() is not None


@proves(Capability.MIGRATION)
def test_a_migration_hands_the_locks_over_in_one_step(hand: Hand) -> None:
    source = hand.manager(hand.disk)
    guest = hand.start(source)
    ticket = source.prepare_migrate("b")
    target = LockManager.incoming(hand.place.on("b"), hand.domain, ticket=ticket)
    target.register(hand.disk)
    arrived = hand.start(target)
    with pytest.raises(NotClaimed):
        source.complete_migrate()
    source.suspend()
    claimed = target.acquire()
    assert claimed.host == "b"
    last = target.complete_migrate()
    assert last is not None
    assert (last.state, last.pid) == (LockState.HELD, arrived.pid)
    source.complete_migrate()
    with pytest.raises(Superseded):
        source.cancel_migrate()
    with pytest.raises(Refused):
        target.cancel_migrate()
    hand.end(source, guest)
    assert target.inquire() == last


@proves(Capability.MIGRATION)
def test_a_guest_that_has_arrived_migrates_on_and_starts_anew_like_any_other(hand: Hand) -> None:
    source = hand.manager(hand.disk)
    guest = hand.start(source)
    target = LockManager.incoming(hand.place.on("b"), hand.domain, ticket=source.prepare_migrate("b"))
    target.register(hand.disk)
    arrived = hand.start(target)
    with pytest.raises(Refused, match="has not arrived"):
        target.prepare_migrate("a")
    source.suspend()
    target.complete_migrate()
    source.complete_migrate()
    hand.end(source, guest)

    back = LockManager.incoming(hand.place.on("a"), hand.domain, ticket=target.prepare_migrate("a"))
    back.register(hand.disk)
    returned = hand.start(back)
    target.suspend()
    with pytest.raises(NotClaimed):
        target.complete_migrate()
    assert target.cancel_migrate() is not None
    target.suspend()
    with pytest.raises(Refused, match="out of date"):
        back.complete_migrate()
    target.cancel_migrate()
    hand.end(target, arrived)

    returned.kill()
    returned.wait()
    back.release()
    hand.start(back)
    lock = back.inquire()
    assert lock is not None
    assert (lock.host, lock.held, [item.path for item in lock.resources]) == ("a", True, [hand.disk])


@proves(Capability.MIGRATION)
def test_a_migration_may_be_undone_until_the_guest_runs_there(hand: Hand) -> None:
    source = hand.manager(hand.disk)
    guest = hand.start(source)
    before = source.inquire()
    target = LockManager.incoming(hand.place.on("b"), hand.domain, ticket=source.prepare_migrate("b"))
    hand.start(target)
    source.suspend()
    target.acquire()
    target.cancel_migrate()
    back = source.cancel_migrate()
    assert before is not None
    assert back is not None
    assert (back.host, back.token, back.state, back.pid) == ("a", before.token, LockState.HELD, guest.pid)


@proves(Capability.MIGRATION)
def test_a_destination_with_older_memory_gets_nothing(hand: Hand) -> None:
    """The source was let run again after the ticket was given: what the destination has in memory is out of date."""
    source = hand.manager(hand.disk)
    hand.start(source)
    ticket = source.prepare_migrate("b")
    source.acquire(state=source.suspend())
    source.suspend()
    target = LockManager.incoming(hand.place.on("b"), hand.domain, ticket=ticket)
    hand.start(target)
    for claim in (target.acquire, target.complete_migrate):
        with pytest.raises(Refused, match="out of date"):
            claim()
    assert source.cancel_migrate() is not None


@proves(Capability.MIGRATION)
def test_nothing_is_claimed_for_a_guest_that_has_not_been_let_in(hand: Hand) -> None:
    source = hand.manager(hand.disk)
    hand.start(source)
    with LockManager.incoming(hand.place.on("b"), hand.domain, ticket=source.prepare_migrate("b")) as target:
        target.register(hand.disk)
        waits = subprocess.Popen((*target.supervisor_command(), "true"))
        source.suspend()
        with pytest.raises(Refused, match="let in"):
            target.acquire()
    assert waits.wait(20) != 0
    assert source.cancel_migrate() is not None


@proves(Capability.MIGRATION)
def test_a_ticket_is_for_one_domain_and_one_host(hand: Hand) -> None:
    source = hand.manager(hand.disk)
    hand.start(source)
    with pytest.raises(Refused, match="already"):
        source.prepare_migrate("a")
    ticket = source.prepare_migrate("c")
    with pytest.raises(InvalidInput, match="host c"):
        LockManager.incoming(hand.place.on("b"), hand.domain, ticket=ticket)
    with pytest.raises(InvalidInput, match="domain"):
        LockManager.incoming(hand.place.on("b"), hand.other().domain, ticket=ticket)


@proves(Capability.MIGRATION)
def test_a_destination_does_not_take_what_the_source_has_not_suspended(hand: Hand) -> None:
    source = hand.manager(hand.disk)
    hand.start(source)
    target = LockManager.incoming(hand.place.on("b"), hand.domain, ticket=source.prepare_migrate("b"))
    hand.start(target)
    with pytest.raises(HeldElsewhere):
        target.complete_migrate()
    lock = source.inquire()
    assert lock is not None
    assert (lock.host, lock.state) == ("a", LockState.HELD)
