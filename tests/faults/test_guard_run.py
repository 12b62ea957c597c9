"""`etcdlock run` with a real etcd, killed or stopped: its guest is dead in time, and nothing of it is left."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

from etcdlock.timing import Timing
from tests.cli.hosts import SHORT_TIMING, Cluster, Running
from tests.faults.guarding import CLOCK, SLACK_SECONDS, STUBBORN, comes_true

TIMING = Timing(**SHORT_TIMING)  # type: ignore[arg-type]
SESSION_LOST = 103


def stubborn(cluster: Cluster, *options: str) -> Running:
    """A guest that lives on when its parent dies: it takes a guard to stop it."""
    running = cluster.guest(*options, "--disk", "/san/x", script='exec python3 -c "$STUBBORN"', STUBBORN=STUBBORN)
    assert comes_true(lambda: len(of(cluster, "signal.pause")) == 2)
    return running


def of(cluster: Cluster, words: str = "") -> set[int]:
    """Living processes of the cluster's hosts, with these words in their command line."""
    mark = f"ETCDLOCK_CLUSTER={cluster.name}".encode()
    everything = [entry for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    mine = [entry for entry in everything if mark in read(entry / "environ").split(b"\0")]
    return {int(entry.name) for entry in mine if words.encode() in read(entry / "cmdline")}


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def test_a_run_that_is_killed_leaves_no_process_behind(cluster: Cluster) -> None:
    running = stubborn(cluster)
    begun = CLOCK.now()
    running.send(signal.SIGKILL)
    running.process.wait()
    assert len(of(cluster, "signal.pause")) == 2, "the deadline is yet to come"
    assert comes_true(lambda: not of(cluster)), "guest, guard or gate is left"
    assert CLOCK.now() - begun < TIMING.stop_after_seconds + SLACK_SECONDS


def test_a_run_that_is_stopped_finds_its_guest_dead_when_it_goes_on_and_says_so(cluster: Cluster) -> None:
    running = stubborn(cluster)
    begun = CLOCK.now()
    running.send(signal.SIGSTOP)
    assert comes_true(lambda: not of(cluster, "signal.pause"))
    assert CLOCK.now() - begun < TIMING.stop_after_seconds + SLACK_SECONDS
    running.send(signal.SIGCONT)
    done = running.ended()
    assert (done.status, "was stopped" in done.err) == (SESSION_LOST, True)
    assert comes_true(lambda: not of(cluster))


def stands(pids: set[int]) -> bool:
    return all(b"State:\tT" in read(Path(f"/proc/{pid}/status")) for pid in pids)


def test_a_run_that_is_stopped_finds_its_frozen_guest_and_lets_it_run_on(cluster: Cluster) -> None:
    running = stubborn(cluster, "--on-session-lost", "freeze")
    guest = of(cluster, "signal.pause")
    running.send(signal.SIGSTOP)
    assert comes_true(lambda: stands(guest))
    assert not comes_true(lambda: not stands(guest), within_seconds=2 * TIMING.stop_after_seconds)
    running.send(signal.SIGCONT)
    assert comes_true(lambda: not stands(guest))
    assert not comes_true(lambda: stands(guest), within_seconds=TIMING.stop_after_seconds + 1)
    assert of(cluster, "signal.pause") == guest
    running.send(signal.SIGKILL)
    assert comes_true(lambda: not of(cluster)), "nobody could let it run again: it is killed"


def test_a_run_whose_guard_is_killed_has_another_and_its_guest_runs_on(cluster: Cluster) -> None:
    running = stubborn(cluster)
    (first,) = of(cluster, "guard/__main__.py")
    os.kill(first, signal.SIGKILL)
    assert comes_true(lambda: bool(of(cluster, "guard/__main__.py") - {first}))
    assert not comes_true(lambda: not of(cluster, "signal.pause"), within_seconds=TIMING.stop_after_seconds + 1)
    running.send(signal.SIGKILL)
    assert comes_true(lambda: not of(cluster))


def test_everything_of_a_run_killed_at_any_moment_of_its_start_is_gone_soon(cluster: Cluster) -> None:
    for part in ("etcdlock", "guard/__main__.py", "guard/gate.py", "signal.pause"):
        running = cluster.start(
            "run", "--disk", f"/san/{part}", "--", "python3", "-c", STUBBORN, host=part.replace("/", "-")
        )
        assert comes_true(partial(of, cluster, part))
        running.send(signal.SIGKILL)
        assert comes_true(lambda: not of(cluster)), f"killed as soon as there was {part}"
