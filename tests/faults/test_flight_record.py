"""What a host keeps of what happened on it: bounded, whole after a crash, and nothing that anybody waits for."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcdlock.adapters import flight_record
from etcdlock.adapters.flight_record import Places, keeping, read_record, take_rings
from etcdlock.escalation import KILLED
from etcdlock.guard import rules
from etcdlock.guard.instant import Reading
from etcdlock.guard.recorder import SIZE, SLOTS, Recorder
from etcdlock.guard.table import Name
from etcdlock.journal import note


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy disk is waited for at the end, which an agent would not."""
    monkeypatch.setattr(flight_record, "END_SECONDS", 30.0)


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as rings:
        yield Places(str(tmp_path / "state"), rings, "node/7")


def events(places: Places) -> list[str]:
    return [line["event"] for line in read_record(places)]


def test_what_is_noted_is_on_disk_and_heartbeats_only_before_something_is_amiss(places: Places) -> None:
    with keeping(places):
        for _ in range(5):
            note("heartbeat", level=logging.DEBUG, session="s")
        note("acquired", domain="vm1")
        note("guest_known", level=logging.DEBUG, domain="vm1", pid=7)
        note("keepalive_failed", level=logging.DEBUG)
        note("heartbeat", level=logging.DEBUG, session="latest")
        note("heartbeat_failed", level=logging.WARNING, error="no answer")
        note("heartbeat_failed", error="no answer yet")
    assert events(places) == ["heartbeat", "acquired", "guest_known", "heartbeat", "heartbeat_failed"]
    assert read_record(places)[3]["fields"] == {"session": "latest"}
    assert Path(places.folder, "record-node%2F7.jsonl").exists()


def test_it_is_bounded_and_the_latest_is_kept(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight_record, "MOST_BYTES", 2000)
    with keeping(places):
        for number in range(200):
            note("acquired", number=number)
    sizes = [file.stat().st_size for file in Path(places.folder).iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 2000
    assert read_record(places)[-1]["fields"] == {"number": 199}


def test_a_line_that_a_power_cut_has_cut_off_hides_no_other(places: Places) -> None:
    with keeping(places):
        note("acquired", domain="vm1")
    with places.file.open("ab") as file:
        file.write(b'{"at": "2026-01-01T00:00:00+00:00", "event": "cut')
    assert events(places) == ["acquired"]


def test_a_disk_that_hangs_holds_up_nobody_and_what_was_lost_is_counted(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()
    real = os.fdatasync
    monkeypatch.setattr(flight_record, "MOST_WAITING", 10)
    monkeypatch.setattr("os.fdatasync", lambda descriptor: (hangs.wait(), real(descriptor)))
    with keeping(places):
        for number in range(100):
            note("acquired", number=number)  # would not come back
        hangs.set()
    assert events(places).count("acquired") < 20
    said = [line["fields"]["lines"] for line in read_record(places) if line["event"] == "record_lines_dropped"]
    assert sum(said) + events(places).count("acquired") == 100


def test_a_folder_that_cannot_be_had_keeps_no_agent_from_its_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with keeping(Places(str(tmp_path / "file/state"), str(tmp_path), "a")):
        note("acquired", domain="vm1")


# --- what guards write ----------------------------------------------------------------------------------------------

NOW = Reading(100.0, 100.0)
LIMITS = rules.Limits(stop_after_seconds=18.0, act_seconds=2.5, kill_seconds=6.0, budget_seconds=24.0)


def strike(recorder: Recorder, *pids: int) -> None:
    state = rules.prove(rules.State(LIMITS), "run-1", at_seconds=100.0, now=NOW)
    for pid in pids:
        armed = rules.arm(state, Name(pid, 5), session="run-1", now=NOW, charge=KILLED)
        assert isinstance(armed, rules.State)
        state = armed
    late = Reading(119.0, 119.0)
    recorder.note(rules.tick(state, now=late, sights={}), now=late)


def test_what_a_guard_is_about_to_do_is_read_though_the_guard_is_killed_then(places: Places) -> None:
    ring = places.new_ring()
    pid = os.fork()
    if not pid:
        strike(Recorder(ring), 7)
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    (line,) = read_record(places)
    assert line["event"] == "guard_strikes"
    assert line["fields"] == {"pid": 7, "pid_start": 5, "session": "run-1", "proven_seconds_ago": 19.0}
    with keeping(places):
        pass
    assert (events(places), Path(ring).exists()) == (["guard_strikes"], False)


def test_the_record_of_a_guard_that_lives_stays_its_own(places: Places) -> None:
    ring = places.new_ring()
    recorder = Recorder(ring)
    strike(recorder, 7)
    assert take_rings(places) == []
    assert (events(places), Path(ring).stat().st_size) == (["guard_strikes"], SIZE)


def test_of_more_than_fits_the_latest_are_kept(places: Places) -> None:
    recorder = Recorder(places.new_ring())
    for first in range(1, 3 * SLOTS, 10):
        strike(recorder, *range(first, first + 10))
    pids = {line["fields"]["pid"] for line in read_record(places)}
    assert len(pids) == SLOTS
    assert max(pids) >= 3 * SLOTS - 1


def test_a_folder_on_a_disk_is_nothing_for_a_guard(tmp_path: Path, places: Places) -> None:
    assert Places(str(tmp_path), "/proc/self", "a").new_ring() == ""
    assert places.new_ring().startswith(places.rings)


def test_a_guard_without_a_record_does_its_work(tmp_path: Path) -> None:
    for path in ("", str(tmp_path / "none/ring")):
        strike(Recorder(path), 7)
