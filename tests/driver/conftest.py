"""One etcd for all tests of the drivers, and each driver loaded on two hosts once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from tests.driver.places import Hand, Place, place


@pytest.fixture(scope="session")
def etcd() -> Iterator[EmbeddedEtcd]:
    with EmbeddedEtcd() as etcd:
        yield etcd


class Places:
    """Of each driver, made when it is first asked for."""

    def __init__(self, etcd: EmbeddedEtcd, factory: pytest.TempPathFactory) -> None:
        self._etcd = etcd
        self._factory = factory
        self._made: dict[str, Place] = {}
        self.stack = ExitStack()

    def of(self, driver: str, /) -> Place:
        if driver not in self._made:
            folder = self._factory.mktemp(driver)
            self._made[driver] = self.stack.enter_context(place(driver, self._etcd, folder))
        return self._made[driver]


@pytest.fixture(scope="session")
def places(etcd: EmbeddedEtcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    made = Places(etcd, tmp_path_factory)
    with made.stack:
        yield made


@pytest.fixture
def hand(places: Places, driver: str) -> Iterator[Hand]:
    """Of the driver that the test is run with."""
    hand = Hand(places.of(driver))
    yield hand
    hand.close()
