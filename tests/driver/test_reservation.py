"""A reservation whose answer was lost: asked again it is a success, and given back in any case."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from etcdlock.driver import Loaded, Reservation, load
from etcdlock.errors import OutcomeUnknown
from tests.driver.places import NOWHERE

LOSSY = """
from threading import Event

from etcdlock.driver import Capability
from etcdlock.driver.nop import NopDriver
from etcdlock.errors import OutcomeUnknown

class Lossy(NopDriver):
    capabilities = NopDriver.capabilities | {Capability.RESERVE}
    loses = 1

    def __init__(self):
        super().__init__()
        self.asked, self.began, self.goes_on = [], Event(), Event()
        self.goes_on.set()

    def reserve(self, owner, resources):
        self.asked.append("reserve")
        self.began.set()
        self.goes_on.wait(20)
        if len(self.asked) <= self.loses:
            raise OutcomeUnknown("etcd does not answer")
        return self.acquire(owner, resources)

    def unreserve(self, owner):
        self.asked.append("unreserve")
"""


@pytest.fixture
def lossy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loaded]:
    info = tmp_path / "lossy-1.0.dist-info"
    info.mkdir()
    (tmp_path / "lossy.py").write_text(LOSSY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lossy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[etcdlock.drivers]\nlossy = lossy:Lossy\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "lossy", raising=False)
    with load("lossy", config=NOWHERE) as driver:
        yield driver


@pytest.mark.parametrize("again", [False, True])
def test_what_may_have_been_reserved_is_given_back(lossy: Loaded, again: bool) -> None:
    with Reservation(lossy, "backup", pid=os.getpid()) as reservation:
        reservation.add_disk("/san/1")
        with pytest.raises(OutcomeUnknown):
            reservation.acquire()
        if again:
            assert reservation.acquire() is reservation.acquire()
    asked = lossy.ask().asked  # type: ignore[attr-defined]
    assert asked == ["reserve", *(["reserve"] if again else []), "unreserve"]


def test_two_threads_reserve_once(lossy: Loaded) -> None:
    driver: Any = lossy.ask()
    driver.loses = 0
    driver.goes_on.clear()
    reservation = Reservation(lossy, "backup", pid=os.getpid())
    reservation.add_disk("/san/1")
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(reservation.acquire)
        assert driver.began.wait(20)
        driver.began.clear()
        other = pool.submit(reservation.acquire)
        assert not driver.began.wait(0.1)
        driver.goes_on.set()
        assert one.result(20) is other.result(20)
