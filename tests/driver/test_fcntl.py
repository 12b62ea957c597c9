"""What the driver `fcntl` does besides the contract: its locks are the guests' own, whatever is written beside them."""

from __future__ import annotations

import json
import os
import resource as limits
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from etcdlock.adapters import host_processes
from etcdlock.driver import DomainId, Loaded, LockManager, Owner, Reservation, load
from etcdlock.errors import GuestNotStarted, HeldElsewhere, NotLocked, Refused
from tests.driver.places import GUEST, NOWHERE, comes_true, fork

MANY = 1100
"""More descriptors than `select` takes."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "fcntl"


@pytest.fixture
def driver(folder: Path) -> Iterator[Loaded]:
    settings = {"host_id": "a", "disk_identity": "path", "fcntl_folder": str(folder)}
    with load("fcntl", config=NOWHERE, settings=settings) as loaded:
        yield loaded


@pytest.fixture
def guests() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Ended with the test."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for guest in started:
        guest.kill()
        guest.wait()


def manager(driver: Loaded, *disks: str, domain: DomainId | None = None) -> LockManager:
    made = LockManager(driver, domain or DomainId(uuid4(), "vm1"))
    for disk in disks:
        made.register(disk)
    return made


def with_a_guest_that_has_ended(driver: Loaded) -> LockManager:
    made = manager(driver, "/san/1")
    guest = made.start(GUEST)
    guest.kill()
    guest.wait()
    return made


def reserved(driver: Loaded, disk: str, *, pid: int) -> Reservation:
    reservation = Reservation(driver, "backup", pid=pid)
    reservation.add_disk(disk)
    reservation.acquire()
    return reservation


def is_free(driver: Loaded, disk: str) -> bool:
    try:
        with reserved(driver, disk, pid=os.getpid()):
            return True
    except HeldElsewhere:
        return False


def test_what_is_written_beside_a_lock_gives_none(
    driver: Loaded, folder: Path, guests: list[subprocess.Popen[bytes]]
) -> None:
    one, other = manager(driver), manager(driver, "/san/x")
    guests += (one.start(GUEST), other.start(GUEST))
    record = folder / f"{one.domain.uuid}.json"
    written = json.loads(record.read_text())
    record.write_text(json.dumps(written | {"resources": [["path", "/san/x", "exclusive", "/san/x"]]}))
    (folder / "notes.json").write_text("of somebody else")
    with pytest.raises(HeldElsewhere):
        one.acquire_resource("/san/x")


def test_a_refusal_names_all_that_is_in_the_way(driver: Loaded, guests: list[subprocess.Popen[bytes]]) -> None:
    guests += (manager(driver, "/san/1").start(GUEST), manager(driver, "/san/3").start(GUEST))
    with pytest.raises(HeldElsewhere) as refused:
        manager(driver, "/san/1", "/san/2", "/san/3").start(GUEST)
    named = sorted(blocker.resource.path for blocker in refused.value.blockers if blocker.resource)
    assert named == ["/san/1", "/san/3"]
    assert all(path in str(refused.value) for path in named)
    guests.append(manager(driver, "/san/2").start(GUEST))


def test_the_release_of_a_guest_that_has_ended_leaves_the_next_one_its_locks(
    driver: Loaded, guests: list[subprocess.Popen[bytes]]
) -> None:
    old = with_a_guest_that_has_ended(driver)
    guests.append(subprocess.Popen(GUEST))
    next_one = Owner(old.domain, guests[0].pid)
    driver.ask().acquire(next_one, ())
    old.release()
    (descriptor,) = driver.ask().pass_on(next_one)  # what it is to inherit
    assert os.fstat(descriptor)
    driver.ask().passed_on(next_one)
    with pytest.raises(NotLocked, match="before it could run"):  # else it would run without locks
        driver.ask().pass_on(next_one)


def test_a_guest_that_has_ended_is_released_though_its_domain_has_another(
    driver: Loaded, guests: list[subprocess.Popen[bytes]]
) -> None:
    old = with_a_guest_that_has_ended(driver)
    later = manager(driver, "/san/1", domain=old.domain)
    guests.append(later.start(GUEST))
    old.release()
    assert later.acquire(state=later.suspend()).held


def test_a_reservation_ends_with_its_process_however_many_descriptors_the_program_has(
    driver: Loaded, folder: Path
) -> None:
    soft, hard = limits.getrlimit(limits.RLIMIT_NOFILE)
    limits.setrlimit(limits.RLIMIT_NOFILE, (max(soft, MANY + 100), hard))
    filler = [os.open(os.devnull, os.O_RDONLY) for _ in range(MANY)]
    try:
        worker = subprocess.Popen(GUEST)
        reserved(driver, "/san/1", pid=worker.pid)
        worker.kill()
        worker.wait()
        comes_true(lambda: is_free(driver, "/san/1"))
        assert list(folder.glob("*.json")) == []
    finally:
        for descriptor in filler:
            os.close(descriptor)
        limits.setrlimit(limits.RLIMIT_NOFILE, (soft, hard))


def test_a_fork_of_the_program_keeps_no_reservation_and_no_supervisor(driver: Loaded) -> None:
    reservation, waiting = reserved(driver, "/san/1", pid=os.getpid()), manager(driver)
    supervisor = subprocess.Popen([*waiting.supervisor_command(), "true"])
    waiting.guest_pid()
    with fork():
        reservation.release()
        comes_true(lambda: is_free(driver, "/san/1"))
        waiting.free()
        assert supervisor.wait(20) == 125


def test_a_disk_that_cannot_be_looked_at_counts_as_open_and_holds_up_nobody(
    driver: Loaded, guests: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file server that is dead: whoever looks there does not come back."""
    one, other = manager(driver, "/nfs/1"), manager(driver, "/san/1")
    guests += (one.start(GUEST), other.start(GUEST))
    looked, answers = threading.Event(), threading.Event()

    def look(_pid: int, _resource: object) -> bool:
        looked.set()
        return not answers.wait(60)

    monkeypatch.setattr(host_processes, "has_open", look)
    with ThreadPoolExecutor(1) as pool:
        unplugging = pool.submit(one.release_resource, "/nfs/1")
        try:
            assert looked.wait(20)
            assert other.suspend()
            assert not unplugging.done()
            with pytest.raises(Refused, match="open"):
                unplugging.result(20)
        finally:
            answers.set()


def test_where_there_is_no_room_for_a_supervisor_that_is_said(
    driver: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(GuestNotStarted, match="no socket for the guest's supervisor"):
        manager(driver).start(GUEST)


def test_what_a_name_rests_on_and_what_is_not_locked_is_in_the_log(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    (tmp_path / "other").hardlink_to(disk)
    xml = """<domain><name>vm1</name><uuid>{}</uuid><devices><hostdev mode='subsystem' type='scsi'><source>
      <adapter name='scsi_host0'/><address bus='0' target='0' unit='0'/></source></hostdev></devices></domain>"""
    with load("fcntl", config=NOWHERE, settings={"host_id": "a", "fcntl_folder": str(folder)}) as driver:
        made = manager(driver, str(disk))
        made.register_xml(xml.format(made.domain.uuid))
    told = {record.getMessage(): vars(record)["fields"]["warning"] for record in caplog.records}
    assert "hard links" in told["disk_named"]
    assert "scsi" in told["not_locked"].lower()


def test_a_guest_that_two_threads_start_is_started_once(
    driver: Loaded, guests: list[subprocess.Popen[bytes]]
) -> None:
    one = manager(driver)

    def start(_: int) -> bool:
        try:
            guests.append(one.start(GUEST))
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(start, range(4))) == [False, False, False, True]
    assert one.guest_pid() == guests[0].pid
    assert guests[0].poll() is None
