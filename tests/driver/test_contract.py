"""What each driver that declares a capability must show for it. Every test is run with all that do."""

from __future__ import annotations

import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from etcdlock.driver import Capability, LockState, Mode, Reservation
from etcdlock.errors import HeldElsewhere, InvalidInput, NoSuchGuest, NotTheOwner, Refused, Superseded
from tests.driver.declared import proves
from tests.driver.places import Hand, comes_true, python


@proves(Capability.EXCLUSION)
def test_what_one_guest_holds_is_refused_to_others_and_says_why(hand: Hand) -> None:
    hand.start(hand.manager(hand.disk))
    for manager in (hand.other(hand.disk), hand.other(hand.disk, host="a")):
        with pytest.raises(HeldElsewhere) as refused:
            manager.start(("sleep", "300"))
        (blocker,) = refused.value.blockers
        assert (blocker.domain.uuid, blocker.owner and blocker.owner.host) == (hand.domain.uuid, "a")
        assert blocker.resource is not None
        assert blocker.resource.path == hand.disk
        assert all(word in str(refused.value) for word in ("vm1", "host a", hand.disk))
    with pytest.raises((HeldElsewhere, Refused)):
        hand.manager().start(("sleep", "300"))


@proves(Capability.EXCLUSION)
def test_of_many_that_want_one_disk_one_has_it(hand: Hand) -> None:
    began = threading.Barrier(6)

    def one(number: int) -> bool:
        manager = hand.other(hand.disk, host="ab"[number % 2])
        guest = subprocess.Popen([*manager.supervisor_command(), "sleep", "300"])
        manager.guest_pid()
        began.wait(30)
        try:
            manager.acquire()
        except HeldElsewhere:
            manager.free()
            assert guest.wait() == 125
            return False
        hand.keep(manager, guest)
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(one, range(6))) == [False] * 5 + [True]


@proves(Capability.RESOURCES, Capability.EXCLUSION)
def test_all_resources_are_locked_or_none(hand: Hand) -> None:
    hand.start(hand.manager(f"{hand.disk}-2"))
    greedy = hand.other(f"{hand.disk}-1", f"{hand.disk}-2", f"{hand.disk}-3")
    with pytest.raises(HeldElsewhere):
        greedy.start(("sleep", "300"))
    hand.start(hand.other(f"{hand.disk}-1", f"{hand.disk}-3", host="a"))


@proves(Capability.RESOURCES)
def test_a_domain_xml_and_a_lease_are_registered_as_one(hand: Hand) -> None:
    xml = f"""<domain type='kvm'><name>vm1</name><uuid>{hand.domain.uuid}</uuid><devices>
      <disk type='file' device='disk'><source file='{hand.disk}'/><target dev='vda'/></disk>
      <serial type='dev'><source path='/dev/ttyS9'/></serial></devices></domain>"""
    manager = hand.manager()
    manager.register_xml(xml, devices=True)
    manager.register_lease("key", lockspace="space", target=hand.disk)
    hand.start(manager)
    lock = manager.inquire()
    assert lock is not None
    own = "host/localhost" if hand.place.driver == "nop" else "host/a"
    assert {item.lockspace for item in lock.resources} == {"path", own, f"{hand.disk}/space"}
    with pytest.raises(InvalidInput):
        hand.other().register_xml(xml)


@proves(Capability.SHARED, Capability.EXCLUSION)
def test_a_shared_disk_has_many_readers_or_one_writer(hand: Hand) -> None:
    for host in ("a", "b"):
        manager = hand.other(host=host)
        manager.register(hand.disk, mode=Mode.SHARED)
        hand.start(manager)
    with pytest.raises(HeldElsewhere):
        hand.other(hand.disk).start(("sleep", "300"))


@proves(Capability.SHARED)
def test_a_shared_disk_says_so(hand: Hand) -> None:
    manager = hand.manager()
    manager.register(hand.disk, mode=Mode.SHARED)
    hand.start(manager)
    lock = manager.inquire()
    assert lock is not None
    assert [item.mode for item in lock.resources] == [Mode.SHARED]


@proves(Capability.HOTPLUG)
def test_a_disk_comes_and_goes_while_the_guest_runs(hand: Hand, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    manager = hand.manager()
    guest = hand.start(manager)
    assert [item.path for item in manager.acquire_resource(str(disk)).resources] == [str(disk)]
    assert [item.path for item in manager.acquire_resource(str(disk)).resources] == [str(disk)]
    if hand.has(Capability.EXCLUSION):
        with pytest.raises(HeldElsewhere):
            hand.other(str(disk)).start(("sleep", "300"))
    assert manager.release_resource(str(disk)).resources == ()
    hand.start(hand.other(str(disk)))
    if hand.has(Capability.EXCLUSION):
        with pytest.raises(HeldElsewhere):
            manager.acquire_resource(str(disk))
    assert guest.poll() is None


@proves(Capability.HOTPLUG, Capability.EXCLUSION)
def test_a_disk_that_the_guest_has_open_is_not_given_back(hand: Hand, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    manager = hand.manager(str(disk))
    script = f"f = open({str(disk)!r}); open({str(tmp_path / 'open')!r}, 'w'); import time; time.sleep(300)"
    hand.start(manager, command=python(script))
    comes_true((tmp_path / "open").exists)
    with pytest.raises(Refused, match="open"):
        manager.release_resource(str(disk))
    with pytest.raises(HeldElsewhere):
        hand.other(str(disk)).start(("sleep", "300"))


@proves(Capability.SUSPEND)
def test_a_guest_stands_and_goes_on_under_the_same_ownership(hand: Hand) -> None:
    manager = hand.manager(hand.disk)
    hand.start(manager)
    before = manager.inquire()
    assert before is not None
    state = manager.suspend()
    assert manager.suspend() == state
    if hand.has(Capability.EXCLUSION):
        with pytest.raises(HeldElsewhere):
            hand.other(hand.disk).start(("sleep", "300"))
    lock = manager.acquire(state=state)
    assert (lock.state, lock.token, lock.pid) == (LockState.HELD, before.token, before.pid)
    assert manager.acquire(state=state).state is LockState.HELD


@proves(Capability.SUSPEND)
def test_a_state_string_of_another_ownership_lets_nothing_run(hand: Hand) -> None:
    manager = hand.manager(hand.disk)
    guest = hand.start(manager)
    old = manager.suspend()
    hand.end(manager, guest)
    again = hand.manager(hand.disk)
    hand.start(again)
    again.suspend()
    with pytest.raises(Superseded):
        again.acquire(state=old)
    with pytest.raises(InvalidInput):
        again.acquire(state="nonsense")
    lock = again.inquire()
    assert lock is not None
    assert lock.state is LockState.PARKED


@proves(Capability.SUSPEND)
def test_a_state_string_of_a_guest_that_was_let_run_since_lets_nothing_run(hand: Hand) -> None:
    manager = hand.manager(hand.disk)
    hand.start(manager)
    old = manager.suspend()
    manager.acquire(state=old)
    state = manager.suspend()
    with pytest.raises(Superseded):
        manager.acquire(state=old)
    assert manager.acquire(state=state).state is LockState.HELD


@proves(Capability.TOKEN)
def test_tokens_grow_with_every_owner_and_the_guest_finds_its_own(hand: Hand, tmp_path: Path) -> None:
    found = []
    for number in range(2):
        manager, said = hand.other(hand.disk, host="ab"[number]), tmp_path / str(number)
        script = f"import os, time; open({str(said)!r}, 'w').write(os.environ['ETCDLOCK_TOKEN']); time.sleep(300)"
        guest = hand.start(manager, command=python(script))
        comes_true(lambda said=said: said.exists() and bool(said.read_text()))  # type: ignore[misc]
        lock = manager.inquire()
        assert lock is not None
        assert lock.token == int(said.read_text())
        assert f":{lock.token}:" in manager.state()
        found.append(lock.token)
        hand.end(manager, guest)
    assert found[0] < found[1]


@proves(Capability.BY_PID)
def test_a_process_that_came_through_no_supervisor_is_locked_by_its_pid(hand: Hand) -> None:
    manager, process = hand.manager(hand.disk), hand.process()
    assert manager.acquire(pid=process.pid).pid == process.pid
    with pytest.raises(NotTheOwner):
        manager.acquire(pid=os.getpid())
    hand.end(manager, process)
    assert manager.inquire() is None
    if hand.has(Capability.EXCLUSION):
        with pytest.raises(NoSuchGuest):
            hand.other().acquire(pid=process.pid)


@proves(Capability.ADOPT)
def test_a_guest_that_runs_already_can_be_locked(hand: Hand) -> None:
    manager, process = hand.manager(hand.disk), hand.process()
    assert manager.adopt(pid=process.pid).held
    if hand.has(Capability.EXCLUSION):
        late = hand.other(hand.disk)
        with pytest.raises(HeldElsewhere):
            late.adopt(pid=hand.process().pid)
    assert process.poll() is None


@proves(Capability.RESERVE)
def test_a_reservation_keeps_guests_away_until_it_is_given_back(hand: Hand) -> None:
    worker = hand.process()
    with Reservation(hand.place.on("a"), "backup", pid=worker.pid) as reservation:
        reservation.add_disk(f"{hand.disk}-1")
        reservation.add_disk(f"{hand.disk}-2", mode=Mode.SHARED)
        reservation.acquire()
        with pytest.raises(HeldElsewhere, match="backup"):
            hand.other(f"{hand.disk}-1").start(("sleep", "300"))
        with pytest.raises(HeldElsewhere):
            hand.other(f"{hand.disk}-2").start(("sleep", "300"))
        with pytest.raises(Refused):
            reservation.add_disk(hand.disk)
    comes_true(lambda: _starts(hand, f"{hand.disk}-1", f"{hand.disk}-2"))
    assert worker.poll() is None


@proves(Capability.RESERVE)
def test_a_reservation_ends_with_its_process(hand: Hand) -> None:
    worker = hand.process()
    reservation = Reservation(hand.place.on("a"), "repair", pid=worker.pid)
    xml = f"""<domain type='kvm'><name>vm1</name><uuid>{uuid4()}</uuid><devices>
      <disk type='file' device='disk'><source file='{hand.disk}'/><target dev='vda'/></disk></devices></domain>"""
    reservation.add_domain(xml, readonly=True)
    assert [item.mode for item in reservation.acquire().resources] == [Mode.SHARED]
    worker.kill()
    worker.wait()
    comes_true(lambda: _starts(hand, hand.disk))
    with pytest.raises(InvalidInput):
        Reservation(hand.place.on("a"), "nothing", pid=os.getpid()).acquire()


def _starts(hand: Hand, *disks: str) -> bool:
    manager = hand.other(*disks)
    try:
        hand.start(manager)
    except HeldElsewhere:
        return False
    return True
