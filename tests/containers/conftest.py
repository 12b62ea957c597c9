"""An engine, the images built from this tree, and what the tests run in containers of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.containers.engine import engine
from tests.containers.etcds import etcd_members
from tests.containers.trial import Trial, trial
from tests.contract.room import EtcdWorld

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def images() -> Iterator[None]:
    """As a user makes them. They stay, like those that are there already: `make up` uses them, too."""
    with engine():
        done = subprocess.run([ROOT / "deploy" / "build-images"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        yield


@pytest.fixture(scope="session", params=[1, 3], ids=["one member", "three members"])
def world(request: pytest.FixtureRequest, images: None) -> Iterator[EtcdWorld]:
    """Takes the place of the fixture of that name in tests/contract: the same tests, another etcd."""
    with ExitStack() as stack:
        yield EtcdWorld(*etcd_members(request.param, stack=stack))


@pytest.fixture(scope="module")
def cluster(images: None, request: pytest.FixtureRequest) -> Iterator[Trial]:
    """The compose file's, up and ready."""
    with trial(ROOT) as running:
        yield running
        if request.session.testsfailed:
            print(running.logs())
