"""The demo itself: it shows what it says, fails when any of it is not so, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from etcdlock.guard import table

WITHIN_SECONDS = 100
GONE_WITHIN_SECONDS = 30
DEMO = (sys.executable, "-m", "etcdlock", "demo")


def test_all_seven_steps_are_so() -> None:
    ended = subprocess.run([*DEMO, "--json"], capture_output=True, text=True, timeout=WITHIN_SECONDS, check=False)
    document = json.loads(ended.stdout)
    assert (ended.returncode, document["failure"], ended.stderr) == (0, None, "")
    assert [step["number"] for step in document["steps"]] == [1, 2, 3, 4, 5, 6, 7]
    assert document["seconds"] < 60

    told = {n: [f"{e['where']}: {e['text']}" for e in document["timeline"] if e["step"] == n] for n in range(1, 8)}
    assert told[1][0].startswith("A: guest runs")
    assert re.search(r"B: refused \(exit 100\): domain demo is held on host A .* host A is alive", told[2][0])
    assert told[3][-1].startswith("A: guest killed")
    assert re.search("etcd: B has proven the end of session A/run-[0-9a-f]+: silence, key missing for 6 s", told[4][0])
    assert told[4][1].startswith("B: guest runs")
    assert told[5][-1].startswith("A: guest runs")
    assert "its guest is the same" in told[6][-1]
    assert "no two owners overlapped, tokens only grew" in told[7][-1]

    figures = document["figures"]
    assert figures["stopped_before_takeover_ms"] > 0
    assert figures["takeover_after_cut_ms"] > figures["stopped_after_cut_ms"] > 0
    assert figures["takeover_after_power_loss_ms"] >= 6000, "nobody may believe in a silence shorter than the hold-off"
    assert figures["rejoined_after_ms"] < 4300, "later than that the guest would have had to be stopped"
    assert figures["records"] > 100
    assert [owner[0] for owner in figures["owners"]] == ["A", "B", "A"]
    tokens = [int(re.findall(r"\d+", owner)[0]) for owner in figures["owners"]]
    assert tokens == sorted(set(tokens))


@contextmanager
def under_way(step: str) -> Iterator[tuple[subprocess.Popen[str], str, list[table.Name]]]:
    """A demo whose timeline has got to where `step` is said: its process, what it printed, and all its processes."""
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0) as demo:
        try:
            assert demo.stdout is not None
            printed = ""
            while step not in printed:
                line = demo.stdout.readline()
                assert line, f"the demo ended early: {printed}"
                printed += line
            me = table.look_up(demo.pid)
            assert me is not None
            family = [process.name for process in table.family(table.read_table(), leader=me.name)]
            yield demo, printed, [name for name in family if name != me.name]
        finally:
            demo.kill()


def folders_of(names: list[table.Name]) -> set[Path]:
    """The private folders that these processes were started on."""
    lines = [Path(f"/proc/{name.pid}/cmdline").read_text(encoding="utf-8") for name in names]
    return {Path(found) for line in lines for found in re.findall(r"/[^\0=]*/etcdlock-etcd-\w+", line)}


def programs(names: list[table.Name]) -> str:
    return " ".join(Path(f"/proc/{name.pid}/cmdline").read_text(encoding="utf-8") for name in names)


def assert_gone(names: list[table.Name], folders: set[Path]) -> None:
    """Soon no process is left, and when the last has gone, no folder."""
    for name in names:
        pidfd = table.open_pidfd(name)
        if pidfd is not None:
            ready, _, _ = select.select([pidfd], [], [], GONE_WITHIN_SECONDS)
            os.close(pidfd)
            assert ready, f"process {name.pid} is still there"
    assert [folder for folder in folders if folder.exists()] == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_however_it_is_ended_neither_etcd_nor_a_guest_nor_a_folder_is_left(number: signal.Signals) -> None:
    with under_way("guest runs") as (demo, printed, names):
        started, folders = programs(names), folders_of(names)
        assert all(program in started for program in ("--data-dir", "etcdlock.demo.guest", "guard/__main__.py"))
        assert len(folders) == 1
        os.killpg(demo.pid, number)
        status = demo.wait(GONE_WITHIN_SECONDS)
        assert_gone(names, folders)
    assert status == (130 if number == signal.SIGINT else -number)
    assert "\x1b" not in printed, "colours where nobody can see them"


def test_a_way_to_cut_that_there_is_not_is_a_wrong_argument() -> None:
    ended = subprocess.run([*DEMO, "--cut", "half"], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert "neither of silent, hard" in ended.stderr
