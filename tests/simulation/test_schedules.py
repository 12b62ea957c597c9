"""Schedules of whole clusters under trouble: nothing unsafe happens, and everything can be had again.

More of them: make simulate SEEDS=100000. One again: python -m tests.simulation SEED.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.mutate import HINTS
from tests.simulation.themes import THEMES, theme_of

ROOT = Path(__file__).parents[2]
SEEDS = int(os.environ.get("SEEDS", "1000"))
REPLAYED = 24


def simulate(*words: object, hash_seed: str = "random") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(1200)
def test_under_a_thousand_schedules_of_trouble_nothing_unsafe_happens_and_everything_can_be_had_again() -> None:
    done = simulate("--seeds", SEEDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{SEEDS} schedules in" in done.stdout


def test_the_same_seeds_play_the_same_history_byte_for_byte_in_another_process(tmp_path: Path) -> None:
    histories = []
    for hash_seed in ("1", "2"):
        file = tmp_path / hash_seed
        assert simulate(*range(REPLAYED), "--history", file, hash_seed=hash_seed).returncode == 0
        histories.append(file.read_bytes())
    assert len({theme_of(seed) for seed in range(REPLAYED)}) > len(THEMES) / 3
    assert len(histories[0]) > REPLAYED * 1000
    assert histories[0] == histories[1]


def test_a_schedule_that_fails_is_printed_with_the_command_that_plays_it_again() -> None:
    name = "stop_after_the_whole_hold_off"
    seed = re.search(rf'"{name}": (\d+)', HINTS.read_text(encoding="utf-8"))
    assert seed is not None
    done = simulate("--first", seed[1], "--seeds", 1, "--jobs", 1, "--plant", name)
    command = re.search(r"^  python -m tests\.simulation (.*)$", done.stdout, flags=re.MULTILINE)
    assert (done.returncode, command is not None) == (1, True), done.stdout + done.stderr
    assert command is not None
    again = simulate(*command[1].split())
    violation = re.search(r"^seed \d+, \w+: (.*)$", done.stdout, flags=re.MULTILINE)
    assert violation is not None
    assert again.returncode == 1
    assert violation[1] in again.stdout


def test_every_theme_is_played_in_ci() -> None:
    assert {theme_of(seed) for seed in range(min(SEEDS, 1000))} == set(THEMES)
