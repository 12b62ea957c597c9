"""A container engine for the tests: the one that runs, or where none does, one of our own that leaves nothing behind.

Our own one makes no rule for packets and no way to the outside: containers reach each other, and this machine reaches
their published ports. What it cannot do without is the bridge docker0, which goes with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

UP_SECONDS = 60.0
END_SECONDS = 40.0
BRIDGE = Path("/sys/class/net/docker0")
CGROUPS = Path("/sys/fs/cgroup")


@contextmanager
def engine() -> Iterator[None]:
    """For the length of a block `docker` works."""
    if shutil.which("docker") is None:
        pytest.skip("needs docker: make system-deps")
    if answers():
        yield
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("needs a running docker, or root and dockerd: make system-deps")
    with our_own():
        yield


def answers() -> bool:
    """Whether an engine runs that we may use."""
    return subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0


@contextmanager
def our_own() -> Iterator[None]:
    """Everything of it is in one folder and below one cgroup."""
    folder = Path(tempfile.mkdtemp(prefix="dockerd."))
    group, had_bridge = f"etcdlock-{folder.parent.name}-{folder.name}", BRIDGE.exists()
    socket = f"unix://{folder}/docker.sock"
    command = [
        "dockerd", "--host", socket, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/run",
        "--pidfile", f"{folder}/pid", "--cgroup-parent", group,
        "--iptables=false", "--ip-forward=false", "--ip-masq=false",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = socket
    try:
        _wait_until_up(process, folder / "log")
        yield
    finally:
        _remove_containers()
        _end(process)
        if before is None:
            del os.environ["DOCKER_HOST"]
        else:
            os.environ["DOCKER_HOST"] = before
        _clear(folder, group=group, had_bridge=had_bridge)


def _wait_until_up(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + UP_SECONDS
    while not answers():
        text = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        assert process.poll() is None, f"dockerd has ended: {text}"
        assert time.monotonic() < deadline, f"dockerd does not answer: {text}"
        time.sleep(0.2)


def _remove_containers() -> None:
    """And the networks' bridges with them."""
    listed = subprocess.run(["docker", "ps", "--all", "--quiet"], capture_output=True, text=True, check=False)
    for container in listed.stdout.split():
        subprocess.run(["docker", "rm", "--force", "--volumes", container], capture_output=True, check=False)
    subprocess.run(["docker", "network", "prune", "--force"], capture_output=True, check=False)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _clear(folder: Path, *, group: str, had_bridge: bool) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{folder}/")]):
        subprocess.run(["umount", "--lazy", mount], check=False)
    shutil.rmtree(folder, ignore_errors=True)
    if BRIDGE.exists() and not had_bridge:
        subprocess.run(["ip", "link", "delete", BRIDGE.name], check=False)
    for left in [CGROUPS / group, *CGROUPS.glob(f"*/{group}")]:
        for child in sorted((path for path in left.rglob("*") if path.is_dir()), reverse=True):
            child.rmdir()
        if left.is_dir():
            left.rmdir()
