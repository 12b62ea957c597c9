"""An etcd for all modules that need one, and a cluster of hosts at a short timing for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from tests.cli.hosts import SHORT_TIMING, Cluster


@pytest.fixture(scope="session")
def etcd() -> Iterator[EmbeddedEtcd]:
    with EmbeddedEtcd() as etcd:
        yield etcd


@pytest.fixture
def cluster(etcd: EmbeddedEtcd, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(etcd.endpoints[0], f"test-{uuid4().hex[:12]}", tmp_path, timing=SHORT_TIMING)
    yield cluster
    cluster.close()
