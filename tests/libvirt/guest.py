"""Guests for libvirt: machines without an operating system, which is all that locks are about."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from uuid import UUID, uuid4

_KVM_CREATE_VM = 0xAE01
_VIRTIO_BLK, _VIRTIO_SCSI = "virtio", "scsi"


@cache
def accelerator() -> str:
    """libvirt's type for domains: `kvm` if the kernel really makes a virtual machine, else `qemu`."""
    try:
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return "qemu"
    try:
        os.close(fcntl.ioctl(kvm, _KVM_CREATE_VM, 0))
    except OSError:
        return "qemu"
    finally:
        os.close(kvm)
    return "kvm"


LEASES, LOCKSPACE = "/san/leases", "reserved"
"""Where an explicit lease is: a name that all hosts mean alike, and no file."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A domain with a disk on each of the paths, then one for each of the `files`.

    `machine` pc or q35; from q35 disks can be unplugged. `leases` are keys of explicit leases, all in one lockspace;
    `on_lockfailure` is the guest's own choice.
    """

    disks: tuple[str, ...]
    files: tuple[str, ...] = ()
    machine: str = "pc"
    name: str = "vm1"
    uuid: UUID = field(default_factory=uuid4)
    leases: tuple[str, ...] = ()
    on_lockfailure: str = ""

    @property
    def xml(self) -> str:
        """As `virsh define` takes it."""
        return f"""
            <domain type='{accelerator()}'>
              <name>{self.name}</name>
              <uuid>{self.uuid}</uuid>
              <memory unit='MiB'>64</memory>
              <os><type arch='x86_64' machine='{self.machine}'>hvm</type></os>
              <features><acpi/></features>
              {f"<on_lockfailure>{self.on_lockfailure}</on_lockfailure>" if self.on_lockfailure else ""}
              <devices>
                <emulator>/usr/bin/qemu-system-x86_64</emulator>
                {"".join(self.disk_xml(number) for number in range(len(self.paths)))}
                {"".join(_lease_xml(key) for key in self.leases)}
                <controller type='usb' model='none'/>
                {"<controller type='scsi' model='virtio-scsi'/>" if self._bus == _VIRTIO_SCSI else ""}
                <memballoon model='none'/>
              </devices>
            </domain>"""

    @property
    def emulated_xml(self) -> str:
        """The same for a user who may not use /dev/kvm."""
        return self.xml.replace("<domain type='kvm'>", "<domain type='qemu'>")

    def disk_xml(self, number: int, /) -> str:
        """One of its disks, as `virsh attach-device` takes it."""
        kind = "block" if number < len(self.disks) else "file"
        return disk_xml(self.paths[number], kind=kind, target=self.target(number), bus=self._bus)

    @property
    def paths(self) -> tuple[str, ...]:
        """Of all its disks."""
        return self.disks + self.files

    def target(self, number: int, /) -> str:
        """What the guest would call a disk of its."""
        return ("sd" if self._bus == _VIRTIO_SCSI else "vd") + "abcdefgh"[number]

    @property
    def _bus(self) -> str:
        return _VIRTIO_SCSI if self.machine == "q35" else _VIRTIO_BLK


def disk_xml(
    path: str, /, *, target: str, kind: str = "block", bus: str = _VIRTIO_SCSI, more: Sequence[str] = ()
) -> str:
    """A block device or a file; `more` are further elements, such as <shareable/>."""
    return f"""
        <disk type='{kind}' device='disk'>
          <driver name='qemu' type='raw' cache='none' io='native'/>
          <source {"dev" if kind == "block" else kind}='{path}'/>
          <target dev='{target}' bus='{bus}'/>
          {"".join(more)}
        </disk>"""


def _lease_xml(key: str, /) -> str:
    return f"<lease><lockspace>{LOCKSPACE}</lockspace><key>{key}</key><target path='{LEASES}'/></lease>"
