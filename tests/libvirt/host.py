"""One host of several on this machine: its own network, processes, files, host name, machine id and boot id.

/run, /etc/libvirt and libvirt's folders under /var are its own. Nothing of it outlives the process that made it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from tests.libvirt.machine import Machine, Program
from tests.libvirt.waiting import PATIENCE_SECONDS, wait_until

REPOSITORY = Path(__file__).parents[2]
IMAGES = "/var/lib/libvirt/images"
"""Where the shared disks are, under the same path on every host."""
OWN_IMAGES = "/var/lib/libvirt/own"
"""A folder that each host has for itself."""
SHARED_LOCKS = "/var/lib/libvirt/lockd/files"
"""One folder that all hosts see, as if it were on NFS."""

_OWN_FOLDERS = ("etc/libvirt", "var/lib/libvirt", "var/log/libvirt", "var/cache/libvirt")
_BOOT = f"""
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock
for folder in {" ".join(_OWN_FOLDERS)}; do mount --bind "$1/$folder" "/$folder"; done
mkdir -p {IMAGES} {OWN_IMAGES} {SHARED_LOCKS}
mount -t tmpfs -o mode=755 tmpfs {IMAGES}
mount --bind "$2" {SHARED_LOCKS}
mount --bind "$1/etc/hosts" /etc/hosts
[ ! -e /etc/machine-id ] || mount --bind "$1/etc/machine-id" /etc/machine-id
mount --bind "$1/boot_id" /proc/sys/kernel/random/boot_id
hostname "$3"
ip link set lo up
"""


class Host:
    """A host that is on. `folder` holds its files, `peers` are all hosts' names and addresses."""

    def __init__(self, name: str, *, folder: Path, shared_locks: Path, peers: Mapping[str, str]) -> None:
        self.name = name
        self.address = peers[name]
        self.folder = folder
        self._shared_locks = shared_locks
        self._programs: list[Program] = []
        for own in (*_OWN_FOLDERS, "etc"):
            (folder / own).mkdir(parents=True, exist_ok=True)
        known = {"localhost": "127.0.0.1", **peers}
        (folder / "etc/hosts").write_text("".join(f"{known[peer]} {peer}\n" for peer in known), encoding="ascii")
        (folder / "etc/machine-id").write_text(f"{uuid4().hex}\n", encoding="ascii")
        self.machine = self._boot()
        """Its namespaces, anew with each power on."""

    @property
    def is_on(self) -> bool:
        return self.machine.is_up

    def power_off(self) -> None:
        """Everything on it dies at the same instant. The kernel lives on and closes connections in order."""
        self.machine.close()
        while self._programs:
            self._programs.pop().wait()

    def power_on(self) -> None:
        """Boot anew: its files as they were, /run empty; network and shared disks are the lab's to give back."""
        self.machine = self._boot()

    def forget(self) -> None:
        """While it is off: all that its programs have written down is gone, but for logs and caches."""
        for own in _OWN_FOLDERS[:2]:
            shutil.rmtree(self.folder / own)
            (self.folder / own).mkdir()

    def run(
        self,
        argv: Sequence[str],
        /,
        *,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        within_seconds: float = PATIENCE_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on it to its end. Raises `subprocess.TimeoutExpired`, having killed it."""
        return subprocess.run(
            self.machine.inside(argv),
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=within_seconds,
            check=False,
        )

    def start_program(
        self, argv: Sequence[str], /, *, env: Mapping[str, str] | None = None, name: str = ""
    ) -> Program:
        """Start a program on it that goes on; its output is in a log of its name in `folder`."""
        log = self.folder / f"{name or Path(argv[0]).name}.log"
        program = Program(self.machine, argv, env={"PYTHONPATH": str(REPOSITORY), **(env or {})}, log=log)
        self._programs.append(program)
        return program

    def start_python(self, module: str, /, *arguments: str, env: Mapping[str, str] | None = None) -> Program:
        """The same for a module, ours or a test's, under the Python that runs the tests."""
        return self.start_program([sys.executable, "-m", module, *arguments], env=env, name=module)

    def wait_until_accepts(self, path: str, /, *, program: Program) -> None:
        """Until `program` accepts connections on the Unix socket `path`; fails at once if it ends instead."""
        wait_until(
            lambda: self._accepts(path) or not program.is_running, what=f"{self.name} accepts connections on {path}"
        )
        assert program.is_running, program.end_of_log()

    def _accepts(self, path: str) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.machine.path(path))) == 0

    def _boot(self) -> Machine:
        (self.folder / "boot_id").write_text(f"{uuid4()}\n", encoding="ascii")
        return Machine(_BOOT, str(self.folder), str(self._shared_locks), self.name)
