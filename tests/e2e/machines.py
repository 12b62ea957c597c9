"""A real QEMU under `etcdlock run`: its domain XML, its disk, its monitor, and the host that runs it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

import pytest

PATIENCE_SECONDS = 30.0
LOOK_EVERY_SECONDS = 0.02

SHORT_TIMING = {
    "ETCDLOCK_TIMING__TTL_SECONDS": "3",
    "ETCDLOCK_TIMING__HOLD_OFF_SECONDS": "6",
    "ETCDLOCK_TIMING__RENEW_EVERY_SECONDS": "0.5",
    "ETCDLOCK_TIMING__TRY_TIMEOUT_SECONDS": "0.5",
    "ETCDLOCK_TIMING__KILL_SECONDS": "1",
    "ETCDLOCK_TIMING__GUARD_LAG_SECONDS": "0.5",
}


def needed(program: str) -> str:
    """Where the program is; the test is skipped, and named at the end, where it is not."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"needs {program}")
    return found


@dataclass(frozen=True, slots=True)
class Machine:
    """A domain with one qcow2 disk, and the command that runs it without a guest OS."""

    folder: Path
    uuid: UUID

    @classmethod
    def make(cls, folder: Path) -> Machine:
        """Write disk and XML."""
        machine = cls(folder, uuid4())
        subprocess.run([needed("qemu-img"), "create", "-q", "-f", "qcow2", machine.disk, "64M"], check=True)
        machine.xml.write_text(
            f"""<domain type='kvm'>
  <name>vm1</name>
  <uuid>{machine.uuid}</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='{machine.disk}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
  </devices>
</domain>
""",
            encoding="utf-8",
        )
        return machine

    @property
    def disk(self) -> Path:
        return self.folder / "vm1.qcow2"

    @property
    def xml(self) -> Path:
        return self.folder / "vm1.xml"

    def command(self, *, monitor: Path) -> list[str]:
        """QEMU itself, paused nowhere, with its monitor on a socket."""
        return [
            needed("qemu-system-x86_64"),
            *("-name", "vm1", "-uuid", str(self.uuid), "-machine", "pc,accel=kvm:tcg", "-m", "64"),
            *("-display", "none", "-nodefaults", "-drive", f"file={self.disk},if=virtio,cache=none"),
            *("-qmp", f"unix:{monitor},server=on,wait=off"),
        ]


class Host:
    """One host of the cluster, on this machine."""

    def __init__(self, name: str, *, endpoint: str, settings: Mapping[str, str]) -> None:
        self._started: list[subprocess.Popen[str]] = []
        self._environment = {
            **os.environ,
            **settings,
            "ETCDLOCK_HOST_ID": name,
            "ETCDLOCK_ENDPOINTS": endpoint,
            "ETCDLOCK_ALLOW_UNSAFE_ETCD": "true",
        }

    def start(self, *arguments: str, command: Sequence[str]) -> subprocess.Popen[str]:
        """`etcdlock run`, going on."""
        process = subprocess.Popen(
            [sys.executable, "-m", "etcdlock", "run", *arguments, "--", *command],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        """Ask whatever still runs to end, and see that it does."""
        for process in self._started:
            process.terminate()
        for process in self._started:
            process.communicate(timeout=PATIENCE_SECONDS)

    def do(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """An `etcdlock` command, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "etcdlock", *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )


class Monitor:
    """QEMU's machine protocol on a Unix socket."""

    def __init__(self, path: Path, *, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        self._socket = socket.socket(socket.AF_UNIX)
        while self._socket.connect_ex(str(path)):
            assert process.poll() is None, f"QEMU did not start: {process.communicate()}"
            assert time.monotonic() < deadline, "QEMU opened no monitor"
            time.sleep(LOOK_EVERY_SECONDS)
        self._socket.settimeout(PATIENCE_SECONDS)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._lines.readline()
        self.do("qmp_capabilities")

    def do(self, command: str) -> Any:
        """Execute a command and return what it answers; events in between are passed over."""
        self._socket.sendall(json.dumps({"execute": command}).encode() + b"\n")
        while "return" not in (answer := json.loads(self._lines.readline())):
            assert "event" in answer, answer
        return answer["return"]

    @property
    def pid(self) -> int:
        """The process at the other end."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", credentials)[0]
        return pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()
