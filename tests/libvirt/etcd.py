"""An etcd that the hosts of a lab can reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from etcdlock.adapters.embedded import EmbeddedEtcd
from tests.libvirt.lab import Lab


@contextmanager
def etcd_of(
    lab: Lab, /, *, binary: str | None = None, durable: bool = False, members: int = 1
) -> Iterator[tuple[EmbeddedEtcd, str]]:
    """Members that run beside the hosts, and where they are for them and for us: host:port,host:port,…"""
    with EmbeddedEtcd(binary, address=lab.address, cluster_size=members, durable=durable) as etcd:
        ports = (endpoint.rpartition(":")[2] for endpoint in etcd.endpoints)
        yield etcd, ",".join(f"{lab.address}:{port}" for port in ports)
