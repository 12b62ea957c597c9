"""A cluster of real programs over a real etcd, as the command line's tests have it."""

from tests.cli.conftest import cluster, etcd

__all__ = ["cluster", "etcd"]
