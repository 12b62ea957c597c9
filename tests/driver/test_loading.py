"""A driver is found, checked and opened before any guest is touched; where that fails, no domain may start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from etcdlock.driver import Capability, available, load
from etcdlock.errors import DriverNotLoaded
from tests.driver.places import DRIVERS, NOWHERE

THIRD_PARTY = '''
from etcdlock.driver.nop import NopDriver

class Mine(NopDriver):
    name = "mine"
    @classmethod
    def open(cls, opening):
        return cls()

class Old(Mine):
    version = 0

class Other:
    version = 1
    capabilities = frozenset()

    @classmethod
    def open(cls, opening):
        return cls()

class Broken(Mine):
    @classmethod
    def open(cls, opening):
        raise OSError("its storage is away")
'''
ENTRY_POINTS = """[etcdlock.drivers]
mine = thirdparty:Mine
old = thirdparty:Old
broken = thirdparty:Broken
missing = thirdparty:Missing
other = thirdparty:Other
"""


@pytest.fixture
def dist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of somebody else's, installed in a folder."""
    info = tmp_path / "thirdparty-1.0.dist-info"
    info.mkdir()
    (tmp_path / "thirdparty.py").write_text(THIRD_PARTY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "thirdparty", raising=False)


def test_a_driver_of_another_package_is_loaded(dist: None) -> None:
    assert {"mine", *DRIVERS} <= set(available())
    with load("mine", config=NOWHERE, require={Capability.RESOURCES}, options={"colour": "green"}) as driver:
        assert driver.name == "mine"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("old", "too old: 1 is needed"),
        ("broken", "its storage is away"),
        ("missing", "cannot be imported"),
        ("other", "is no subclass of"),
        ("unheard-of", "there is no driver 'unheard-of'"),
    ],
)
def test_what_cannot_be_used_is_not_loaded_and_nothing_takes_its_place(dist: None, name: str, why: str) -> None:
    for words in ((name, {}), ("", {"driver": name})):
        with pytest.raises(DriverNotLoaded, match=why):
            load(words[0], config=NOWHERE, settings=words[1])


def test_what_is_required_and_missing_is_refused(dist: None) -> None:
    with pytest.raises(DriverNotLoaded, match="lacks what is required: exclusion, migration"):
        load("mine", config=NOWHERE, require={Capability.EXCLUSION, Capability.MIGRATION})


def test_a_program_that_needs_a_later_driver_api_is_refused(dist: None) -> None:
    with pytest.raises(DriverNotLoaded, match="this etcdlock has 1"):
        load("mine", config=NOWHERE, version=2)
