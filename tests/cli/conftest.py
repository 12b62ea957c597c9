"""One etcd for all tests of the command line, and a cluster of its own for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from tests.cli.hosts import SHORT_TIMING, Cluster
from tests.cli.site import Site


@pytest.fixture(scope="session")
def etcd() -> Iterator[EmbeddedEtcd]:
    with EmbeddedEtcd() as etcd:
        yield etcd


@pytest.fixture
def cluster(etcd: EmbeddedEtcd, tmp_path: Path) -> Iterator[Cluster]:
    """With the default timing. Nothing may be left of it in etcd but what the test itself put there."""
    cluster = Cluster(etcd.endpoints[0], f"test-{uuid4().hex[:12]}", tmp_path)
    yield cluster
    assert cluster.close() == (), "left behind in etcd"


@pytest.fixture
def quick_cluster(etcd: EmbeddedEtcd, tmp_path: Path) -> Iterator[Cluster]:
    """The same, where a silent host's locks may be taken after seconds."""
    cluster = Cluster(etcd.endpoints[0], f"test-{uuid4().hex[:12]}", tmp_path, timing=SHORT_TIMING)
    yield cluster
    assert cluster.close() == (), "left behind in etcd"


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> Iterator[Site]:
    site = Site(cluster, tmp_path)
    site.start_agent()
    yield site
    site.end()


@pytest.fixture
def quick_site(quick_cluster: Cluster, tmp_path: Path) -> Iterator[Site]:
    site = Site(quick_cluster, tmp_path)
    site.start_agent()
    yield site
    site.end()
