"""A machine that boots: this one's own files under an overlay, systemd as process 1 in namespaces, everything gone at
the end.

So it has what this machine has: libvirt, QEMU, an etcd. What the test writes, it writes into memory.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

PATIENCE_SECONDS: Final = 90.0
NEEDED: Final = ("systemd-nspawn", "unshare", "nsenter", "libvirtd", "qemu-system-x86_64", "etcd", "dpkg")


class Machine:
    """Off at first: `run` then runs a command among its files; booted, within it."""

    def __init__(self) -> None:
        missing = [program for program in NEEDED if shutil.which(program) is None]
        if missing or os.geteuid() != 0:
            pytest.skip(f"needs root and {', '.join(missing) or 'nothing else'}: make system-deps")
        self._folder = Path(tempfile.mkdtemp(prefix="machine-", dir="/var/tmp"))  # not below an overlay
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sleep", "infinity"], start_new_session=True
        )
        self._init: int | None = None
        self._nspawn: subprocess.Popen[bytes] | None = None
        self.until(lambda: _mounts(self._keeper.pid) != _mounts(os.getpid()), what="a mount namespace")
        self._outside(_OVERLAY.format(folder=self._folder))
        self.root = self._folder / "root"
        self.write("/etc/machine-id", f"{uuid4().hex}\n")

    # --- files and commands ---------------------------------------------------------------------------------------

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Within the machine; with `check` it must succeed."""
        words = self._inside(*command) if self._init else self._spawn("--pipe", *command)
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}{self.journal()}"
        return done

    def write(self, path: str, text: str) -> None:
        """A file, with its folders."""
        self._outside('mkdir -p "$(dirname "$1")"; printf %s "$2" >"$1"', f"{self.root}{path}", text)

    def put(self, file: Path, path: str) -> None:
        """A copy of a file."""
        self._outside('cp "$1" "$2"', str(file), f"{self.root}{path}")

    def switch(self, script: Path) -> None:
        """Give virtlockd's place to etcdlock while the machine is off."""
        self._outside('"$1" enable --root "$2"', str(script), str(self.root))

    def written(self) -> set[str]:
        """Every file that is not this machine's own, or other than there; what counts is in the overlay alone.

        A character device there is no file: it says that one of this machine's own has been removed.
        """
        done = self._outside(f"cd {self._folder}/upper && find . ! -type d ! -type c -printf '%P\\n'")
        return set(done.stdout.splitlines())

    # --- its life ---------------------------------------------------------------------------------------------------

    def boot(self, target: str) -> None:
        """Come back when systemd has reached the target."""
        command = self._spawn("--boot", "--private-network", f"systemd.unit={target}")
        self._nspawn = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.until(lambda: self._first_process() is not None, what="process 1")
        self._init = self._first_process()
        self.until(lambda: self.property(target, "ActiveState") == "active", what=f"{target} is reached")

    def property(self, unit: str, name: str) -> str:
        """What systemd says of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit, check=False).stdout.strip()

    def until(self, holds: Callable[[], bool], *, what: str) -> None:
        """Wait for it, within bounds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < deadline, f"never: {what}{self.journal()}"
            time.sleep(0.1)  # a machine boots in real time

    def journal(self) -> str:
        """The end of it, for whoever looks for a reason."""
        if self._init is None:
            return ""
        words = self._inside("journalctl", "--no-pager", "-n", "60", "-o", "short-monotonic")
        return "\n" + subprocess.run(words, capture_output=True, text=True, check=False, timeout=30).stdout

    def end(self) -> None:
        """Pull the plug."""
        for pid in (self._init, self._nspawn and self._nspawn.pid, self._keeper.pid):
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for process in (self._nspawn, self._keeper):
            if process is not None:
                process.wait(timeout=PATIENCE_SECONDS)
        shutil.rmtree(self._folder)

    # --- how ------------------------------------------------------------------------------------------------------

    def _outside(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["nsenter", "-t", str(self._keeper.pid), "-m", "sh", "-euc", script, "sh", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS)

    def _spawn(self, *words: str) -> list[str]:
        options = ["--quiet", "--register=no", "--keep-unit", "--machine=etcdlock-test", f"--directory={self.root}"]
        kvm = ["--bind=/dev/kvm"] if Path("/dev/kvm").exists() else []
        return ["nsenter", "-t", str(self._keeper.pid), "-m", "systemd-nspawn", *options, *kvm, *words]

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", "-t", str(self._init), "-a", "env", "-i", _PATH, "LC_ALL=C", *command]

    def _first_process(self) -> int | None:
        """The child of nspawn, which is process 1 of a namespace of its own."""
        assert self._nspawn is not None
        for task in Path(f"/proc/{self._nspawn.pid}/task").glob("*/children"):
            for pid in task.read_text().split():
                with suppress(OSError):
                    status = Path(f"/proc/{pid}/status").read_text()
                    if status.split("NSpid:")[1].split("\n")[0].split()[-1] == "1":
                        return int(pid)
        return None


_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OVERLAY: Final = """
mount -t tmpfs tmpfs {folder}
mkdir {folder}/upper {folder}/work {folder}/root
mount -t overlay overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work {folder}/root
"""


def _mounts(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/mnt").readlink())
