"""A host with libvirt: its libvirtd, stock virtlockd, virsh, and the QEMUs they start.

Without AppArmor, cgroups and QEMU's own mount namespaces: they are not what keeps a disk from two writers.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from tests.libvirt.guest import Guest
from tests.libvirt.host import SHARED_LOCKS, Host
from tests.libvirt.machine import Program
from tests.libvirt.process_table import is_alive, pid_here
from tests.libvirt.waiting import PATIENCE_SECONDS, wait_until

LOCK_SOCKET = "/run/libvirt/virtlockd-sock"

_LIBVIRTD_CONF = """
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
auth_unix_rw = "none"
listen_addr = "{address}"
host_uuid = "{host_uuid}"
"""

_QEMU_CONF = """
lock_manager = "{lock_manager}"
security_driver = "none"
user = "root"
group = "root"
remember_owner = 0
stdio_handler = "file"
cgroup_controllers = []
namespaces = []
"""


@dataclass(frozen=True, slots=True)
class LockManager:
    """What libvirt is told about locks: `name` in qemu.conf, and the text of qemu-lockd.conf."""

    name: str
    lockd_conf: str = ""


NOP = LockManager("nop")
LOCKD = LockManager("lockd")
"""Locks by path, from whoever listens on virtlockd's socket."""
LOCKD_IN_SHARED_FILES = LockManager("lockd", f'file_lockspace_dir = "{SHARED_LOCKS}"\n')
"""Locks by hashed path, in a folder that all hosts have: what libvirt advises for storage that several of them see."""


class LibvirtHost(Host):
    """A host of which libvirtd runs once it has been started."""

    def __init__(self, name: str, *, folder: Path, shared_locks: Path, peers: Mapping[str, str]) -> None:
        super().__init__(name, folder=folder, shared_locks=shared_locks, peers=peers)
        self._libvirtd: Program | None = None
        self._host_uuid = uuid4()

    def power_off(self) -> None:
        super().power_off()
        self._libvirtd = None

    # --- services -------------------------------------------------------------------------------------------------

    def start_libvirtd(self, locks: LockManager, /) -> Program:
        """Start it with this lock manager and wait until it serves; whatever serves the locks must be there before."""
        self._write_conf("libvirtd", _LIBVIRTD_CONF.format(address=self.address, host_uuid=self._host_uuid))
        self._write_conf("qemu", _QEMU_CONF.format(lock_manager=locks.name))
        self._write_conf("qemu-lockd", locks.lockd_conf)
        libvirtd = self.start_program(["libvirtd", "--listen"])
        wait_until(
            lambda: not libvirtd.is_running or self.virsh("uri", check=False).returncode == 0,
            what=f"libvirtd on {self.name} serves",
        )
        assert libvirtd.is_running, libvirtd.end_of_log()
        self._libvirtd = libvirtd
        return libvirtd

    def stop_libvirtd(self) -> None:
        """As its service would be stopped; guests run on."""
        if self._libvirtd is not None:
            self._libvirtd.terminate()
        self._libvirtd = None

    def kill_libvirtd(self) -> None:
        """SIGKILL, as a crash would; guests run on."""
        assert self._libvirtd is not None, f"libvirtd does not run on {self.name}"
        self._libvirtd.kill()
        self._libvirtd = None

    def start_virtlockd(self) -> Program:
        """Stock virtlockd on its socket."""
        self._write_conf("virtlockd", "")
        virtlockd = self.start_program(["virtlockd"])
        self.wait_until_accepts(LOCK_SOCKET, program=virtlockd)
        return virtlockd

    # --- guests ---------------------------------------------------------------------------------------------------

    def virsh(
        self, *arguments: str, stdin: str = "", check: bool = True, within_seconds: float = PATIENCE_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run virsh; with `check` it must succeed."""
        command = ["virsh", "--connect", "qemu:///system", *arguments]
        done = self.run(command, stdin=stdin, within_seconds=within_seconds)
        assert not check or done.returncode == 0, f"{self.name}: virsh {' '.join(arguments)}: {done.stderr}"
        return done

    def define(self, guest: Guest, /) -> None:
        self.virsh("define", "/dev/stdin", stdin=guest.xml)

    def start(self, guest: Guest, /) -> subprocess.CompletedProcess[str]:
        """Define it and try to start it; whether that went well is for the caller to look at."""
        self.define(guest)
        return self.virsh("start", guest.name, check=False)

    def destroy(self, guest: Guest, /) -> None:
        self.virsh("destroy", guest.name)

    def migrate(
        self, guest: Guest, /, *options: str, to: Host, within_seconds: float = PATIENCE_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Try to migrate it live; whether that went well is for the caller to look at."""
        uris = (f"qemu+tcp://{to.address}/system", f"tcp://{to.address}")
        flags = ("--live", "--unsafe", *options)
        return self.virsh("migrate", *flags, guest.name, *uris, check=False, within_seconds=within_seconds)

    def state(self, guest: Guest, /) -> str:
        """libvirt's word for it: `running`, `paused`, `shut off`; empty if it does not know it."""
        return self.virsh("domstate", guest.name, check=False).stdout.strip()

    def qemu_pid(self, name: str, /) -> int | None:
        """The guest's process as we number it, whatever libvirtd knows of it; None if there is none."""
        try:
            there = int(self.machine.path(f"/run/libvirt/qemu/{name}.pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return pid_here(there, of=self.machine.pid)

    def kill_qemu(self, name: str, /) -> None:
        """SIGKILL, as a crash would; it is gone on return."""
        pid = self.qemu_pid(name)
        assert pid is not None, f"{name} has no process on {self.name}"
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), what=f"QEMU of {name} is gone")

    def clear(self) -> None:
        """No guest is left and, if libvirtd is up, no domain."""
        for name in _names(self.machine.path("/run/libvirt/qemu")):
            self._end(name)
        if self._serves:
            for name in _names(self.folder / "etc/libvirt/qemu"):
                self.virsh("undefine", "--managed-save", "--snapshots-metadata", name)

    @property
    def _serves(self) -> bool:
        return self._libvirtd is not None and self._libvirtd.is_running

    def _end(self, name: str) -> None:
        if self._serves:
            self.virsh("destroy", name, check=False)  # it may have ended meanwhile
        elif self.qemu_pid(name) is not None:
            self.kill_qemu(name)

    def _write_conf(self, name: str, text: str) -> None:
        (self.folder / f"etc/libvirt/{name}.conf").write_text(text, encoding="ascii")


def _names(folder: Path) -> list[str]:
    """The domains of which libvirt keeps a description there."""
    return [file.stem for file in folder.glob("*.xml")]
