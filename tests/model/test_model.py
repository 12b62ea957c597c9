"""The model of the lock protocol, checked with spin: it holds, and whatever is taken away from it is missed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "docs" / "model" / "check.py"
NEEDED = ("spin", "gcc")


def checked(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What the check says."""
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}: make system-deps")
    return subprocess.run([sys.executable, str(CHECK), *arguments], capture_output=True, text=True, check=False)


def every_weakening() -> set[str]:
    """Those that the model's source knows."""
    source = (CHECK.parent / "weakenings.pml").read_text()
    return set(re.findall(r"(?:#ifdef |defined\()(\w+)", source))


@pytest.mark.timeout(600)
def test_the_protocol_holds_and_whatever_is_taken_away_from_it_is_missed() -> None:
    done = checked("--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    caught = set(re.findall(r"^(\w+) +caught after [1-9]", done.stdout, re.MULTILINE))
    assert caught == every_weakening()


def test_a_counterexample_is_told_step_by_step() -> None:
    done = checked("PARKED_WITHOUT_PROOF")
    assert "host 0: its guest's vCPUs stop" in done.stdout, done.stdout + done.stderr


def test_the_page_names_every_weakening() -> None:
    page = (CHECK.parent / "README.md").read_text()
    assert {name for name in every_weakening() if f"`{name}`" not in page} == set()
