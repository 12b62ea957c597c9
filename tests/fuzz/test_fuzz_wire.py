"""The coverage-guided fuzzer: for a minute in CI, elsewhere for a moment."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 60 if os.environ.get("CI") == "true" else 5
SABOTAGED = """
import sys
from pathlib import Path
from tests.fuzz import fuzz_wire
hoard = []
def check(received, cuts):
    {breaks}
fuzz_wire.check_conversation = check
fuzz_wire.fuzz(Path(sys.argv[1]), seconds=30)
"""
"""In place of the rules, one that is broken."""


@pytest.fixture(autouse=True)
def _atheris() -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("needs atheris: pip install atheris")


def run(*words: str, within_seconds: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=within_seconds, check=False)


def test_guided_fuzzing_finds_nothing() -> None:
    fuzzed = run("-m", "tests.fuzz.fuzz_wire", str(SECONDS), within_seconds=SECONDS + 45)
    assert fuzzed.returncode == 0, fuzzed.stdout + fuzzed.stderr
    tried = re.search(r"number_of_executed_units: (\d+)", fuzzed.stderr)
    assert tried is not None, fuzzed.stderr
    assert int(tried[1]) > 100 * SECONDS


@pytest.mark.parametrize(
    ("breaks", "says"),
    [("hoard.append(bytearray(b'x') * 2**20)", "out-of-memory"), ("assert len(received) < 20", "AssertionError")],
    ids=["memory without bound", "a broken rule"],
)
def test_it_finds(breaks: str, says: str, tmp_path: Path) -> None:
    """Else finding nothing would say nothing."""
    found = run("-c", SABOTAGED.format(breaks=breaks), str(tmp_path), within_seconds=60)
    assert found.returncode != 0
    assert says in found.stdout + found.stderr
    assert len(list(tmp_path.glob("finding-*"))) == 1
