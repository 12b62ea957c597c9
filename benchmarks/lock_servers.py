"""Lock servers as programs of their own, each on a socket of its own: etcdlock's agent, and stock virtlockd.

Nothing of them is left when they are closed. virtlockd gets a /run of its own in a namespace, and is not told to listen
elsewhere, since it cannot be.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import accepts, children, end, until

END_WITHIN_SECONDS = 15.0

AGENT = (sys.executable, "-m", "etcdlock", "agent")
VIRTLOCKD = "virtlockd"
ITS_OWN_RUN = 'mount -t tmpfs tmpfs /run && mkdir -p /run/libvirt && echo up && exec virtlockd -f "$1"'
NAMESPACES = ("unshare", "--mount", "--propagation", "private", *(() if os.geteuid() == 0 else ("--map-root-user",)))


class Agent:
    """An agent that serves libvirt. `folder` is where it keeps what it keeps."""

    def __init__(self, endpoint: str, folder: Path, *, variables: Mapping[str, str] | None = None) -> None:
        self.path = str(folder / "virtlockd-sock")
        self._log = (folder / "agent.log").open("ab")
        self._environment = {
            **os.environ,
            "ETCDLOCK_ENDPOINTS": endpoint,
            "ETCDLOCK_HOST_ID": "bench",
            "ETCDLOCK_DISK_IDENTITY": "path",
            "ETCDLOCK_ALLOW_UNSAFE_ETCD": "true",
            "ETCDLOCK_LOCK_SOCKET": self.path,
            "ETCDLOCK_RUN_FOLDER": str(folder),
            "ETCDLOCK_STATE_FOLDER": str(folder),
            **(variables or {}),
        }
        self._process = self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def guard(self) -> int:
        """Its guard's pid; of two, the later one's."""
        return max(children(self.pid))

    def kill(self) -> None:
        """SIGKILL; it is gone on return."""
        self._process.kill()
        self._process.wait()

    def start_again(self) -> float:
        """The seconds until it serves."""
        begun = time.perf_counter()
        self._process = self._start()
        return time.perf_counter() - begun

    def close(self) -> None:
        """End it, and its guard: by then nothing is locked, or nobody cares any more."""
        guards = children(self.pid)
        self._process.terminate()
        try:
            self._process.wait(END_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        for guard in guards:
            end(guard)
        self._log.close()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            AGENT, env=self._environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
        )
        until(lambda: accepts(self.path) or process.poll() is not None, what="the agent serves")
        if process.poll() is not None:
            raise RuntimeError(f"the agent has ended: {Path(self._log.name).read_text(encoding='utf-8')[-2000:]}")
        return process


@contextmanager
def agent(endpoint: str, folder: Path, /, *, variables: Mapping[str, str] | None = None) -> Iterator[Agent]:
    """One that runs inside."""
    folder.mkdir()
    running = Agent(endpoint, folder, variables=variables)
    try:
        yield running
    finally:
        running.close()


@contextmanager
def virtlockd(folder: Path, /) -> Iterator[str]:
    """The path of its socket. Locks are on files, as it does unless told otherwise."""
    conf = folder / "virtlockd.conf"
    conf.write_text("", encoding="ascii")
    command = (*NAMESPACES, "sh", "-c", ITS_OWN_RUN, "sh", str(conf))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        if not (process.stdout and process.stdout.readline()):
            raise RuntimeError("virtlockd got no /run of its own")
        path = f"/proc/{process.pid}/root/run/libvirt/virtlockd-sock"
        until(lambda: accepts(path), what="virtlockd serves")
        yield path
    finally:
        process.kill()
        process.wait()


def missing_for_virtlockd() -> str:
    """Why there is none here; empty if there is."""
    if shutil.which(VIRTLOCKD) is None:
        return "virtlockd is not installed (Debian: libvirt-daemon-system)"
    if subprocess.run([*NAMESPACES, "true"], check=False, capture_output=True).returncode:
        return "it needs the right to make a mount namespace"
    return ""
