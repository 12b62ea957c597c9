"""Real libvirt hosts on this machine, one lock manager each, for the benchmarks that need them.

Every host has its own namespaces, libvirtd and QEMU (`tests.libvirt.lab`); all share this machine's processors and the
one etcd, which waits for its disk. The agents keep to the timing that they have unless told otherwise.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from tests.libvirt.guest import accelerator
from tests.libvirt.lab import Lab
from tests.libvirt.libvirt_host import LOCK_SOCKET, LOCKD, NOP, LibvirtHost, LockManager

AGENT, VIRTLOCKD, NOTHING = "etcdlock's agent", "stock virtlockd", 'lock_manager = "nop"'
NAMES = (AGENT, VIRTLOCKD, NOTHING)

PROGRAMS = (
    *("libvirtd", "virtlockd", "virsh", "qemu-system-x86_64"),
    *("ip", "losetup", "mount", "nsenter", "setpriv", "unshare"),
)


@dataclass(frozen=True, slots=True)
class Group:
    """Hosts whose libvirt asks the same kind of lock manager."""

    name: str
    hosts: Sequence[LibvirtHost]


def missing() -> str:
    """What a lab lacks here; empty if nothing."""
    if absent := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"it needs {', '.join(absent)}"
    if os.geteuid() != 0:
        return "it needs root, for network namespaces and loop devices"
    return ""


def guests_run_on() -> str:
    """For titles: what runs the guests' processors."""
    return "KVM" if accelerator() == "kvm" else "QEMU without KVM"


def groups(lab: Lab, endpoint: str, /, *, hosts_each: int, virtlockd_conf: LockManager = LOCKD) -> tuple[Group, ...]:
    """The lab's hosts dealt out to `NAMES`, with what each needs up and running."""
    starts = {AGENT: _with_agent, VIRTLOCKD: _with_virtlockd, NOTHING: _with_nothing}
    found = []
    for number, name in enumerate(NAMES):
        hosts = lab.hosts[number * hosts_each : (number + 1) * hosts_each]
        for host in hosts:
            starts[name](host, endpoint, virtlockd_conf)
        found.append(Group(name, hosts))
    return tuple(found)


def _with_agent(host: LibvirtHost, endpoint: str, _: LockManager) -> None:
    variables = {
        "ETCDLOCK_ENDPOINTS": endpoint,
        "ETCDLOCK_HOST_ID": host.name,
        "ETCDLOCK_ALLOW_UNSAFE_ETCD": "true",
    }
    agent = host.start_python("etcdlock", "agent", env=variables)
    host.wait_until_accepts(LOCK_SOCKET, program=agent)
    host.start_libvirtd(LOCKD)


def _with_virtlockd(host: LibvirtHost, _: str, conf: LockManager) -> None:
    host.start_virtlockd()
    host.start_libvirtd(conf)


def _with_nothing(host: LibvirtHost, _: str, __: LockManager) -> None:
    host.start_libvirtd(NOP)
