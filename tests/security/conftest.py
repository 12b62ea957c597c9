"""An etcd that lets in only whom it should, and the cluster `blue` in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from tests.cli.hosts import SHORT_TIMING
from tests.contract.etcds import DISTRO, SYSTEM, binary_of
from tests.security.secured import Etcds, Pki, SecureCluster


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Certificates for a member, two hosts, an operator and a reader."""
    return Pki.make(tmp_path_factory.mktemp("certificates") / "blue")


@pytest.fixture(scope="session")
def etcds(pki: Pki) -> Iterator[Etcds]:
    """Each kind of etcd once, set up by `etcdlock init-cluster`."""
    with ExitStack() as stack:

        @cache
        def started(name: str) -> EmbeddedEtcd:
            etcd = stack.enter_context(EmbeddedEtcd(binary_of(name), extra_args=pki.etcd_arguments))
            environment = {**os.environ, "ETCDLOCK_CONFIG": os.devnull, "COLUMNS": "100"}
            where = ("--endpoint", etcd.endpoints[0], "--cluster", "blue", "--certs", str(pki.folder))
            words = [sys.executable, "-m", "etcdlock", "init-cluster", *where]
            done = subprocess.run(words, env=environment, capture_output=True, timeout=60, check=False)
            assert (done.returncode, b"asks everybody who they are" in done.stdout) == (0, True), done.stderr
            return etcd

        yield started


@pytest.fixture
def blue(etcds: Etcds, pki: Pki, tmp_path: Path) -> Iterator[SecureCluster]:
    """Nothing may be left of it but what the test itself put there."""
    yield from cluster(etcds(DISTRO), pki, tmp_path)


@pytest.fixture(params=[DISTRO, SYSTEM])
def each_blue(request: pytest.FixtureRequest, etcds: Etcds, pki: Pki, tmp_path: Path) -> Iterator[SecureCluster]:
    """The same in each real etcd in turn."""
    yield from cluster(etcds(request.param), pki, tmp_path)


def cluster(etcd: EmbeddedEtcd, pki: Pki, folder: Path) -> Iterator[SecureCluster]:
    made = SecureCluster(etcd.endpoints[0], "blue", folder, timing=SHORT_TIMING, pki=pki)
    yield made
    assert made.close() == (), "left behind in etcd"
