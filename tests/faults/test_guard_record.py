"""An agent ends the guards that earlier agents left, once its own guards everything, and no other process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcdlock.adapters.alone import only_agent
from etcdlock.adapters.guard_record import GuardRecord
from etcdlock.errors import AgentRuns, InvalidSetting
from etcdlock.escalation import KILLED
from etcdlock.guard import table, wire
from tests.faults.guarding import CLOCK, comes_true, raw_guard, run

NOBODY: frozenset[tuple[int, int]] = frozenset()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_the_guard_of_an_earlier_agent_is_ended_when_it_is_told_and_not_before(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    GuardRecord(str(tmp_path)).add(sleeper.pid)
    second = GuardRecord(str(tmp_path))
    assert sleeper.poll() is None
    run(second.end_earlier(ours=NOBODY))
    assert sleeper.wait(5.0) == -signal.SIGUSR2
    assert (tmp_path / "guards").read_text(encoding="ascii") == ""


@pytest.mark.parametrize("is_ours", [True, False])
@pytest.mark.parametrize("stands", [True, False])
def test_what_an_earlier_guard_has_frozen_and_is_nobodys_any_more_is_killed_and_nothing_else(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], is_ours: bool, stands: bool
) -> None:
    process = table.look_up(sleeper.pid)
    assert process is not None
    with raw_guard() as (link, guard):
        link.send(wire.pack(wire.PROVE, 1, CLOCK.now(), "s"))
        words = wire.pack(wire.ARM, 2, process.name, wire.pack_charge("s", KILLED))
        socket.send_fds(link, [words], [os.pidfd_open(sleeper.pid)])
        assert [link.recv(100), link.recv(100)] == [b"done 1", b"done 2"]
        if stands:
            sleeper.send_signal(signal.SIGSTOP)
            assert comes_true(lambda: getattr(table.look_up(sleeper.pid), "stopped", False))
        GuardRecord(str(tmp_path)).add(guard.pid)
        link.close()
        ours = frozenset({(sleeper.pid, process.name.start)}) if is_ours else NOBODY
        run(GuardRecord(str(tmp_path)).end_earlier(ours=ours))
        assert guard.wait(5.0) == 0
    assert comes_true(lambda: sleeper.poll() is not None, within_seconds=0.5) == (stands and not is_ours)


def test_an_agent_ends_no_guard_of_its_own(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record = GuardRecord(str(tmp_path))
    record.add(sleeper.pid)
    run(record.end_earlier(ours=NOBODY))
    assert sleeper.poll() is None
    assert GuardRecord(str(tmp_path)) is not None
    assert (tmp_path / "guards").read_text(encoding="ascii").startswith(f"{sleeper.pid}:")


def test_an_agent_that_dies_half_way_leaves_both_guards_to_the_next(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    GuardRecord(str(tmp_path)).add(sleeper.pid)
    with subprocess.Popen(["sleep", "60"]) as other:
        GuardRecord(str(tmp_path)).add(other.pid)  # … and ends without a word
        run(GuardRecord(str(tmp_path)).end_earlier(ours=NOBODY))
        assert (sleeper.wait(5.0), other.wait(5.0)) == (-signal.SIGUSR2, -signal.SIGUSR2)


def test_who_has_a_guards_pid_since_is_left_alone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    process = table.look_up(sleeper.pid)
    assert process is not None
    (tmp_path / "guards").write_text(f"{sleeper.pid}:{process.name.start - 1}\n", encoding="ascii")
    run(GuardRecord(str(tmp_path)).end_earlier(ours=NOBODY))
    assert sleeper.poll() is None


def test_a_record_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "guards").write_text("what is this\n", encoding="ascii")
    with pytest.raises(InvalidSetting, match="guards"):
        GuardRecord(str(tmp_path))


def test_a_second_agent_of_a_host_is_refused_and_told_who_runs(tmp_path: Path) -> None:
    with (
        only_agent(str(tmp_path / "run")),
        pytest.raises(AgentRuns, match=str(os.getpid())),
        only_agent(str(tmp_path / "run")),
    ):
        pass
    with only_agent(str(tmp_path / "run")):
        pass


def test_a_folder_that_cannot_be_made_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="ascii")
    with pytest.raises(InvalidSetting, match="run_folder"), only_agent(str(tmp_path / "file" / "run")):
        pass
