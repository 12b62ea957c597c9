"""The simulation has teeth: whatever keeps a promise is taken out, one thing at a time, and each time it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.mutate import order
from tests.simulation.planting import DoesNotApply, Edit, Mutant
from tests.simulation.themes import THEMES

ROOT = Path(__file__).parents[2]
PROMISES = (ROOT / "docs" / "SAFETY.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_fault_applies_changes_something_and_names_a_promise(mutant: Mutant) -> None:
    for module, source in mutant.sources().items():
        path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        assert source != path.read_text(encoding="utf-8")
        compile(source, str(path), "exec")
    assert re.search(rf"^\| {re.escape(mutant.promise)} \|", PROMISES, flags=re.MULTILINE)
    assert {*mutant.themes} <= {theme.__name__ for theme in THEMES}


@pytest.mark.timeout(1200)
def test_every_planted_fault_is_caught_by_one_of_the_schedules_of_ci() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 25
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.mutate"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(MUTANTS)} of {len(MUTANTS)} faults caught" in done.stdout


def test_a_fault_whose_text_is_gone_or_is_there_twice_is_an_error() -> None:
    for text in ("this line was never there", "import"):
        with pytest.raises(DoesNotApply, match="has this"):
            Mutant("gone", "One owner", (Edit("takeover", text, "pass"),)).sources()


def test_two_edits_of_one_module_are_both_made() -> None:
    edits = (Edit("session", "LIVE = \"live\"", "LIVE = \"l\""), Edit("session", "LOST = \"lost\"", "LOST = \"x\""))
    source = Mutant("both", "One owner", edits).sources()["etcdlock.session"]
    assert 'LIVE = "l"' in source
    assert 'LOST = "x"' in source


def test_the_schedule_that_caught_a_fault_last_comes_first_then_those_of_its_themes_then_all_others() -> None:
    mutant = Mutant("any", "One owner", (), ("b", "a"))
    assert order(mutant, ["a", "c", "b", "a"], hint=1) == [1, 2, 0, 3]
    assert order(mutant, ["a", "c", "b", "a"], hint=None) == [2, 0, 3, 1]
    assert order(mutant, ["a", "c", "b", "a"], hint=99) == [2, 0, 3, 1]


def test_the_page_names_every_planted_fault_and_no_other() -> None:
    page = (ROOT / "docs" / "SIMULATION.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE) == [mutant.name for mutant in MUTANTS]


def test_every_page_that_counts_the_planted_faults_counts_all_of_them() -> None:
    for name in ("README.md", "CHANGELOG.md", "docs/TRACK_RECORD.md"):
        text = " ".join((ROOT / name).read_text(encoding="utf-8").split())
        counted = re.findall(r"(\d+) (?:planted faults|faults (?:that are )?planted)", text)
        assert counted == [str(len(MUTANTS))], name
