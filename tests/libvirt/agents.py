"""etcdlock's own agent on the hosts of a lab, in virtlockd's place, and what etcd remembers of what it did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.model import LockState, StoredDomain
from etcdlock.timing import Timing
from tests.libvirt.etcd import etcd_of
from tests.libvirt.guest import Guest
from tests.libvirt.host import OWN_IMAGES
from tests.libvirt.lab import Lab
from tests.libvirt.libvirt_host import LOCK_SOCKET, LOCKD, LibvirtHost
from tests.libvirt.machine import Program
from tests.libvirt.records import Records
from tests.libvirt.waiting import wait_until

ACQUIRE_SECONDS = 3
"""How long an agent lets libvirt wait."""
TIMING = Timing(
    ttl_seconds=4,
    hold_off_seconds=12,
    renew_every_seconds=1,
    try_timeout_seconds=0.5,
    kill_seconds=1,
    guard_lag_seconds=0.5,
)
"""Guests outlive 9 s without etcd, and are taken over 17 s after a crash."""

BY_PATH = {"ETCDLOCK_DISK_IDENTITY": "path", "ETCDLOCK_LOCAL_FOLDERS": OWN_IMAGES}
"""A lab's shared disks lie on its machine's file system, which is no shared one by what it is."""


class Cluster:
    """An etcd, and an agent on each host of a lab with a libvirtd that asks it."""

    def __init__(self, lab: Lab, etcd: EmbeddedEtcd, *, endpoints: str, settings: Mapping[str, str]) -> None:
        self._lab = lab
        self._endpoints = endpoints
        self._settings = settings
        self._agents: dict[str, Program] = {}
        self.etcd = etcd
        self.records = Records(etcd.endpoints)
        for host in lab.hosts:
            self.start_services(host)

    def start_services(self, host: LibvirtHost, /) -> None:
        """What a host runs when it has booted."""
        self.start_agent(host)
        host.start_libvirtd(LOCKD)

    def start_agent(self, host: LibvirtHost, /) -> None:
        """Start the host's agent and wait until it serves libvirt."""
        agent = host.start_python("etcdlock", "agent", "--log-level", "info", env=self.environment(host))
        self._agents[host.name] = agent
        host.wait_until_accepts(LOCK_SOCKET, program=agent)

    def agent(self, host: LibvirtHost, /) -> Program:
        """The latest one of the host."""
        return self._agents[host.name]

    def start(self, guest: Guest, /, *, on: LibvirtHost) -> None:
        """Start a guest that nothing keeps from running."""
        started = on.start(guest)
        assert started.returncode == 0, started.stderr

    def heal(self) -> None:
        """etcd answers, and every host's agent runs and has a session."""
        for member in range(len(self.etcd.endpoints)):
            self.etcd.resume(member)
        for host in self._lab.hosts:
            self.agent(host).thaw()
            if not self.agent(host).is_running:
                self.start_agent(host)
        hosts = {host.name for host in self._lab.hosts}
        wait_until(lambda: {ref.host for ref in self.records.sessions()} == hosts, what="all hosts have joined")

    # --- what is so ------------------------------------------------------------------------------------------------

    def lock(self, guest: Guest, /) -> StoredDomain:
        """The lock of a guest that has one."""
        return self.records.locks()[guest.name]

    def is_held(self, guest: Guest, /) -> bool:
        """Its guest may run; False while it is parked."""
        return self.lock(guest).record.state is LockState.HELD

    def wait_until_parked(self, guest: Guest, /) -> None:
        wait_until(lambda: not self.is_held(guest), what=f"{guest.name} is parked")

    def wait_until_free(self) -> float:
        """How many seconds it took until nobody held anything."""
        return wait_until(lambda: not self.records.locks(), what="all locks are given back")

    def check_held_once(self, guest: Guest, /, *, by: LibvirtHost) -> None:
        """One host has the domain and all of its disks, and nobody else runs it."""
        record, running = self.lock(guest).record, self.runs_on(guest)
        assert record.owner.host == by.name, record
        assert sorted(resource.path for resource in record.resources) == sorted(guest.paths), record
        assert running in ([], [by.name]), running

    def runs_on(self, guest: Guest, /) -> list[str]:
        """The hosts whose libvirt says that the guest's vCPUs run."""
        return [host.name for host in self._lab.hosts if host.is_on and host.state(guest) == "running"]

    def environment(self, host: LibvirtHost, /) -> dict[str, str]:
        """What every etcdlock on that host is told."""
        timing = {f"ETCDLOCK_TIMING__{name.upper()}": f"{value:g}" for name, value in TIMING.as_mapping().items()}
        return {
            **timing,
            "ETCDLOCK_ENDPOINTS": self._endpoints,
            **self._settings,
            "ETCDLOCK_HOST_ID": host.name,
            "ETCDLOCK_STATE_FOLDER": "/run/etcdlock-state",
            "ETCDLOCK_ALLOW_UNSAFE_ETCD": "true",
            "ETCDLOCK_ACQUIRE_SECONDS": str(ACQUIRE_SECONDS),
        }


@contextmanager
def cluster_of(lab: Lab, /, *, etcd_members: int = 1, settings: Mapping[str, str] = BY_PATH) -> Iterator[Cluster]:
    """A cluster of all hosts of a lab."""
    with etcd_of(lab, members=etcd_members) as (etcd, endpoints):
        yield Cluster(lab, etcd, endpoints=endpoints, settings=settings)
