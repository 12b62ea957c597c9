"""Hosts on real sockets; and, for what takes time, the same programs in virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.serving import ApiHost, Serving, serving
from tests.promises.conftest import play

__all__ = ["alice", "bob", "hosts", "play"]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Serving]:
    """None yet."""
    with serving(tmp_path) as made:
        yield made


@pytest.fixture
def alice(hosts: Serving) -> ApiHost:
    """A host."""
    return hosts.host("alice")


@pytest.fixture
def bob(hosts: Serving) -> ApiHost:
    """Another one."""
    return hosts.host("bob")
