"""An etcd that the hosts of a lab can reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.adapters.embedded_ports import free_ports
from tests.libvirt.lab import Lab


@contextmanager
def etcd_of(lab: Lab, /) -> Iterator[tuple[EmbeddedEtcd, str]]:
    """A member that runs beside the hosts, and its host:port for them and for us."""
    ports = free_ports(1)
    endpoint = f"{lab.address}:{ports[0].client}"
    listen = f"http://127.0.0.1:{ports[0].client},http://{endpoint}"
    elsewhere = (f"--listen-client-urls={listen}", f"--advertise-client-urls=http://{endpoint}")
    with EmbeddedEtcd(extra_args=elsewhere, choose_ports=lambda _: ports) as etcd:
        yield etcd, endpoint
