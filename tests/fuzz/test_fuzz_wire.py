"""The coverage-guided fuzzer, for a moment; by hand and in CI it runs longer."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_five_seconds_of_guided_fuzzing_find_nothing() -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("needs atheris: pip install atheris")
    command = [sys.executable, "-m", "tests.fuzz.fuzz_wire", "5"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    tried = re.search(r"number_of_executed_units: (\d+)", run.stderr)
    assert tried is not None, run.stderr
    assert int(tried[1]) > 500
