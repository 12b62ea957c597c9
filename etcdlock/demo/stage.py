"""Everything the demo needs around it, built up and taken down: files, networks, hosts, the witness.

All files lie in the private etcd's folder, which goes with it even if the demo is killed; so do the hosts' processes
(see `machine`). Nothing of this machine's own configuration is read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from etcdlock.adapters.etcd import EtcdStore
from etcdlock.adapters.etcd_options import EtcdOptions
from etcdlock.config import Settings, load
from etcdlock.demo import checker
from etcdlock.demo.hosts import Host, Run
from etcdlock.demo.proxy import Proxy
from etcdlock.demo.witness import GuestWitness, Witness
from etcdlock.model import StoredDomain
from etcdlock.timing import Timing

SETTINGS: Final = """\
cluster = "demo"
disk_identity = "path"        # one folder here; on real hosts, one path to shared storage
allow_unsafe_etcd = true      # the embedded etcd 3.5.1 is good enough for half a minute
answer_seconds = 2
log_level = "info"

[timing]                      # as short as a busy small machine can keep; the defaults are for real clusters
ttl_seconds = 3
hold_off_seconds = 6
renew_every_seconds = 0.5
try_timeout_seconds = 0.4
kill_seconds = 1
guard_lag_seconds = 0.2
"""

DOMAIN_XML: Final = """\
<domain type='kvm'>
  <name>demo</name>
  <uuid>{uuid}</uuid>
  <devices>
    <disk type='file' device='disk'>
      <source file='{disk}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """Two hosts, one disk, and whoever watches them."""

    a: Host
    b: Host
    disk: Path
    store: EtcdStore
    witness: Witness
    timing: Timing
    _undo: AsyncExitStack

    async def start(self, host: Host, /, *, wait_seconds: float = 0.0) -> Run:
        """Start the guest on a host. What is left of it at the end is killed before anything else goes."""
        run = await host.run(wait_seconds=wait_seconds)
        self._undo.push_async_callback(run.power_off)
        return run

    def read_disk(self) -> checker.Report:
        """What is on the disk now."""
        return checker.check(self.disk.read_bytes())

    def watch_guest(self, stored: StoredDomain, /) -> GuestWitness:
        """Keep an eye on the process that a lock's record names."""
        guest = GuestWitness(stored)
        self._undo.callback(guest.close)
        return guest


@asynccontextmanager
async def set_up(etcd_port: int, /, *, folder: Path) -> AsyncIterator[Stage]:
    """Set the stage for an etcd on loopback that is empty, in a folder that somebody else removes."""
    uuid = uuid4()
    config, domain, disk = _write_files(folder, uuid=uuid)
    settings = load(file=config, environment={})
    async with AsyncExitStack() as undo:
        store = _open_store(settings, etcd_port)
        undo.push_async_callback(store.close)
        witness = Witness(store, keys=settings.keyspace, uuid=uuid)
        undo.push_async_callback(witness.close)
        a, b = [Host(name, await _network(etcd_port, undo), config, domain, disk) for name in ("A", "B")]
        yield Stage(a, b, disk, store, witness, settings.contract.timing, undo)


async def _network(etcd_port: int, undo: AsyncExitStack, /) -> Proxy:
    network = await Proxy.start(etcd_port)
    undo.push_async_callback(network.close)
    return network


def _write_files(folder: Path, /, *, uuid: UUID) -> tuple[Path, Path, Path]:
    config, domain, disk = folder / "etcdlock.toml", folder / "demo.xml", folder / "disk.raw"
    config.write_text(SETTINGS, encoding="utf-8")
    domain.write_text(DOMAIN_XML.format(uuid=uuid, disk=disk), encoding="utf-8")
    disk.touch()
    return config, domain, disk


def _open_store(settings: Settings, port: int, /) -> EtcdStore:
    """The demo's own way to etcd, which is never cut."""
    return EtcdStore(
        EtcdOptions(endpoints=(f"127.0.0.1:{port}",), try_timeout_seconds=2.0, max_txn_ops=settings.max_txn_ops)
    )
