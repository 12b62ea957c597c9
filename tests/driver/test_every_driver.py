"""What every driver keeps to, whatever it declares; and what it does not declare, it refuses by name."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from etcdlock.driver import Capability, LockManager, LockState, Mode, Reservation, load
from etcdlock.errors import EtcdlockError, InvalidInput, NotLocked, NotTheOwner, Refused
from tests.driver.declared import PROVED, all_drivers, kind_of
from tests.driver.places import DRIVERS, GUEST, NOWHERE, Hand, comes_true, python


@all_drivers
def test_a_guest_runs_with_its_own_pid_once_it_has_its_locks(hand: Hand) -> None:
    manager = hand.manager(hand.disk)
    guest = hand.start(manager)
    lock = manager.inquire()
    assert lock is not None
    assert (lock.uuid, lock.held, lock.state, lock.pid) == (hand.domain.uuid, True, LockState.HELD, guest.pid)
    assert [resource.path for resource in lock.resources] == [hand.disk]
    assert guest.poll() is None
    comes_true(lambda: Path(f"/proc/{guest.pid}/comm").read_text().strip() == "sleep")


@all_drivers
def test_nothing_of_a_guest_runs_before_it_is_let_through(hand: Hand, tmp_path: Path) -> None:
    sign = tmp_path / "ran"
    manager = hand.manager(hand.disk)
    guest = subprocess.Popen([*manager.supervisor_command(), "touch", str(sign)])
    assert manager.guest_pid() == guest.pid
    assert not sign.exists()
    manager.free()  # as the end of this program does
    assert guest.wait() == 125
    assert not sign.exists()
    with pytest.raises(NotLocked):
        LockManager(hand.place.on("a"), hand.domain).guest_pid()


@all_drivers
def test_a_supervisor_that_was_refused_is_no_guest_of_the_next_start(hand: Hand) -> None:
    manager = hand.manager(hand.disk)
    refused = subprocess.Popen([*manager.supervisor_command(), "true"])
    manager.guest_pid()
    manager.free()
    assert refused.wait() == 125
    guest = hand.start(manager)
    assert manager.guest_pid() == guest.pid
    with pytest.raises(Refused, match=f"has process {guest.pid}"):
        manager.supervisor_command()


@all_drivers
def test_whoever_knows_the_supervisors_pid_may_say_it(hand: Hand) -> None:
    manager = hand.manager(hand.disk)
    guest = subprocess.Popen([*manager.supervisor_command(), *GUEST])
    hand.keep(manager, guest)
    with pytest.raises(NotTheOwner):
        manager.acquire(pid=os.getpid())
    assert manager.acquire(pid=guest.pid).pid == guest.pid
    comes_true(lambda: Path(f"/proc/{guest.pid}/comm").read_text().strip() == "sleep")


@all_drivers
def test_locks_are_given_back_with_the_guests_end_and_not_before(hand: Hand) -> None:
    manager = hand.manager(hand.disk)
    guest = hand.start(manager)
    with pytest.raises(Refused):
        manager.release()
    hand.end(manager, guest)
    assert manager.inquire() is None
    again = hand.other(hand.disk)
    hand.end(again, hand.start(again))


@pytest.mark.parametrize("driver", ["fcntl"])
def test_locks_are_not_given_back_while_what_the_guest_has_started_holds_them(hand: Hand, tmp_path: Path) -> None:
    manager = hand.manager(hand.disk)
    left = tmp_path / "pid"
    script = f"import os,time; pid = os.fork(); pid and open({str(left)!r}, 'w').write(str(pid)); time.sleep(300)"
    guest = hand.start(manager, command=python(script))
    comes_true(lambda: left.exists() and left.read_text() != "")
    guest.kill()
    guest.wait()
    with pytest.raises(Refused, match="has started still holds"):
        manager.release()
    os.kill(int(left.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("driver", ["agent"])
def test_what_was_reserved_is_given_back_when_its_driver_is_closed(hand: Hand) -> None:
    worker = hand.process()
    hand.place.on("a")
    with load(hand.place.driver, config=NOWHERE, settings=hand.place.settings("a", acquire_seconds=6.0)) as own:
        reservation = Reservation(own, "backup", pid=worker.pid)
        reservation.add_disk(hand.disk)
        reservation.acquire()
    comes_true(lambda: all(lock.stored.record.pid != worker.pid for lock in hand.place.cluster.survey().locks))
    assert worker.poll() is None


@pytest.mark.parametrize("driver", ["etcd"])
def test_a_program_that_would_be_killed_itself_reserves_nothing_for_itself(hand: Hand) -> None:
    reservation = Reservation(hand.place.on("a"), "backup", pid=os.getpid())
    reservation.add_disk(hand.disk)
    with pytest.raises(Refused, match="cannot reserve for itself"):
        reservation.acquire()


@all_drivers
def test_a_guest_that_cannot_be_executed_leaves_nothing(hand: Hand) -> None:
    manager = hand.manager(hand.disk)
    guest = hand.start(manager, command=("/no/such/program",))
    assert guest.wait() == 127
    manager.release()
    assert manager.inquire() is None


@all_drivers
def test_asking_again_is_a_success(hand: Hand) -> None:
    manager = hand.manager(hand.disk)
    guest = hand.start(manager)
    first = manager.inquire()
    assert first is not None
    assert manager.acquire() == first
    assert guest.poll() is None


@all_drivers
def test_many_threads_may_ask_at_once(hand: Hand) -> None:
    """Eight guests of their own, and one that all of them ask about."""
    shared = hand.manager(hand.disk)
    hand.start(shared)

    def one(number: int) -> int:
        manager = hand.other(f"{hand.disk}-{number}", host="a")
        guest = manager.start(("sleep", "300"))
        assert shared.acquire().uuid == hand.domain.uuid
        hand.end(manager, guest)
        return guest.pid

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(one, range(8)))) == 8


@all_drivers
def test_one_disk_twice_is_refused_and_nothing_is_registered(hand: Hand) -> None:
    manager = hand.manager(hand.disk)
    with pytest.raises(InvalidInput):
        manager.register(f"/san//{hand.disk.rpartition('/')[2]}")
    with pytest.raises(InvalidInput):
        manager.register("not/absolute")
    disks = "".join(
        f"<disk type='file'><source file='{path}'/><target dev='vd{number}'/></disk>"
        for number, path in enumerate((f"{hand.disk}-other", hand.disk))
    )
    with pytest.raises(InvalidInput):
        manager.register_xml(
            f"<domain><name>vm1</name><uuid>{hand.domain.uuid}</uuid><devices>{disks}</devices></domain>"
        )
    hand.start(manager)
    lock = manager.inquire()
    assert lock is not None
    assert [item.path for item in lock.resources] == [hand.disk]
    with pytest.raises(Refused):
        manager.register("/san/too-late")


@all_drivers
def test_a_driver_is_opened_once_however_often_it_is_loaded(hand: Hand) -> None:
    here = hand.place.on("a")
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: hand.place.load("a"), range(8)))
    assert {id(each.ask()) for each in loaded} == {id(here.ask())}
    for each in loaded:
        each.close()
        each.close()
    with pytest.raises(Refused, match="closed"):
        loaded[0].ask()
    assert LockManager(here, hand.domain).inquire() is None


@all_drivers
def test_a_forked_child_is_refused_and_its_parent_goes_on(hand: Hand) -> None:
    here = hand.place.on("a")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            try:
                LockManager(here, hand.domain)
            except EtcdlockError as error:
                os.write(writing, f"{type(error).__name__}: {error}".encode())
            here.close()
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as said:
        assert b"DriverClosed" in said.read()
    hand.start(hand.manager(hand.disk))


REFUSED: dict[Capability, Callable[[Hand], object]] = {
    Capability.EXCLUSION: lambda hand: hand.place.load("a", require={Capability.EXCLUSION}),
    Capability.CLUSTER: lambda hand: hand.place.load("a", require={Capability.CLUSTER}),
    Capability.STOPPING: lambda hand: hand.place.load("a", require={Capability.STOPPING}),
    Capability.TOKEN: lambda hand: hand.place.load("a", require={Capability.TOKEN}),
    Capability.RESOURCES: lambda hand: hand.manager(hand.disk),
    Capability.SHARED: lambda hand: hand.manager().register(hand.disk, mode=Mode.SHARED),
    Capability.HOTPLUG: lambda hand: hand.manager().acquire_resource(hand.disk),
    Capability.SUSPEND: lambda hand: hand.manager().suspend(),
    Capability.MIGRATION: lambda hand: hand.manager().prepare_migrate("b"),
    Capability.BY_PID: lambda hand: hand.manager().acquire(pid=hand.process().pid),
    Capability.ADOPT: lambda hand: hand.manager().adopt(pid=hand.process().pid),
    Capability.ATTACH: lambda hand: LockManager.attach(hand.place.on("a"), hand.domain),
    Capability.RESERVE: lambda hand: Reservation(hand.place.on("a"), "backup", pid=os.getpid()),
}
UNDECLARED = [(driver, item) for driver in DRIVERS for item in Capability if item not in kind_of(driver).capabilities]


@pytest.mark.parametrize(("driver", "capability"), UNDECLARED)
def test_what_is_not_declared_is_refused_by_name(hand: Hand, capability: Capability) -> None:
    with pytest.raises(Refused, match=capability.value) as refused:
        REFUSED[capability](hand)
    assert hand.place.driver in str(refused.value)


def test_every_capability_is_proved_by_a_test() -> None:
    from tests.driver import test_contract, test_contract_hosts, test_stopping  # noqa: F401 - which register their own

    assert set(PROVED) == set(Capability)
    assert set(REFUSED) == set(Capability)
