"""A container engine for the tests: the one that runs, or where none does, one of our own that leaves nothing behind.

Our own one makes no rule for packets and no way to the outside: containers reach each other, and this machine reaches
their published ports. What it cannot do without is the bridge docker0, which goes with it. Whenever and however it
ends, it is checked that nothing of it is left: a test that has failed or an engine that was killed is no excuse.
"""

from __future__ import annotations

import os
import re
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
ENOUGH_MEMORY_BYTES = 8 << 30
BRIDGE = "docker0"
LINKS = Path("/sys/class/net")
CGROUPS = Path("/sys/fs/cgroup")
SHARES = {"cpu.shares": "16384", "cpu.weight": "1600"}
"""Of processor time for all containers together: that of 16 processes outside, for about so many are in them. Unasked,
it would be that of one."""


@contextmanager
def engine(*, in_memory: bool = True) -> Iterator[None]:
    """For the length of a block `docker` works. Our own one has its images in memory if it may and they fit."""
    if shutil.which("docker") is None:
        pytest.skip("needs docker: make system-deps")
    if answers():
        yield
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("needs a running docker, or root and dockerd: make system-deps")
    with our_own(in_memory=in_memory):
        yield


def answers() -> bool:
    """Whether an engine runs that we may use."""
    return subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0


@contextmanager
def our_own(*, in_memory: bool) -> Iterator[None]:
    """Everything of it is in one folder and below one cgroup."""
    folder = Path(tempfile.mkdtemp(prefix="dockerd."))
    group, had_bridge = f"etcdlock-{folder.parent.name}-{folder.name}", (LINKS / BRIDGE).exists()
    socket = f"unix://{folder}/docker.sock"
    command = [
        "dockerd", "--host", socket, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/run",
        "--pidfile", f"{folder}/pid", "--cgroup-parent", group,
        "--iptables=false", "--ip-forward=false", "--ip-masq=false",
    ]  # fmt: skip
    _make_group(group)
    if in_memory:
        _keep_in_memory(folder / "data")
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
        bridges = [name for name in _bridges(folder) if name != BRIDGE or not had_bridge]
        _clear(folder, group=group, bridges=bridges)
        left = left_of(folder, group=group, bridges=bridges)
        assert not left, f"of the engine is left: {left}"


def _make_group(group: str) -> None:
    """Before the engine does, for its containers' fair share."""
    for controller in (CGROUPS, CGROUPS / "cpu"):
        if any((controller / name).exists() for name in ("cgroup.procs", "tasks")):
            (controller / group).mkdir(exist_ok=True)
        for name, share in SHARES.items():
            if (controller / group / name).exists():
                (controller / group / name).write_text(share, encoding="ascii")


def _keep_in_memory(data: Path) -> None:
    """Images that are built for some minutes and then removed: on a disk, the removal alone takes half a minute."""
    data.mkdir()
    free = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    if free and int(free[1]) * 1024 > ENOUGH_MEMORY_BYTES:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g,mode=0711", "etcdlock-tests", data], check=True)


def _wait_until_up(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + UP_SECONDS
    while not answers():
        text = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        assert process.poll() is None, f"dockerd has ended: {text}"
        assert time.monotonic() < deadline, f"dockerd does not answer: {text}"
        time.sleep(0.2)


def _remove_containers() -> None:
    """And the networks' bridges with them."""
    found = subprocess.run(["docker", "ps", "--all", "--quiet"], capture_output=True, text=True, check=False)
    if listed := found.stdout.split():
        subprocess.run(["docker", "rm", "--force", "--volumes", *listed], capture_output=True, check=False)
    subprocess.run(["docker", "network", "prune", "--force"], capture_output=True, check=False)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _bridges(folder: Path) -> list[str]:
    """Those that this engine has made, by its own book of networks; those of others are none of our business."""
    book = folder / "data/network/files/local-kv.db"
    known = book.read_bytes() if book.exists() else b""
    return [link.name for link in LINKS.iterdir() if (link / "bridge").is_dir() and link.name.encode() in known]


def _clear(folder: Path, *, group: str, bridges: list[str]) -> None:
    """What an engine leaves even when it ends in order, and all that one leaves that was killed."""
    for pid in _processes_of(folder, group=group):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + END_SECONDS
    while _processes_of(folder, group=group) and time.monotonic() < deadline:
        time.sleep(0.1)
    for mount in reversed(_mounts(folder)):
        subprocess.run(["umount", "--lazy", mount], check=False)
    shutil.rmtree(folder, ignore_errors=True)
    for bridge in bridges:
        if (LINKS / bridge).exists():
            subprocess.run(["ip", "link", "delete", bridge], check=False)
    for left in _cgroups(group):
        for child in sorted((path for path in left.rglob("*") if path.is_dir()), reverse=True):
            child.rmdir()
        left.rmdir()


def left_of(folder: Path, *, group: str, bridges: list[str]) -> list[str]:
    """Processes, mounts, folders, cgroups and bridges of an engine that has ended."""
    there = [str(path) for path in (folder, *_cgroups(group), *(LINKS / bridge for bridge in bridges)) if path.exists()]
    return [*(f"process {pid}" for pid in _processes_of(folder, group=group)), *_mounts(folder), *there]


def _processes_of(folder: Path, *, group: str) -> list[int]:
    """The engine's own, which name its folder, and those in its containers."""
    processes = [entry for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [int(process.name) for process in processes if _is_of(process, folder, group)]


def _is_of(process: Path, folder: Path, group: str, /) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        inside = f"/{group}/" in (process / "cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return inside or any(str(folder).encode() in word for word in words if words[0] != b"")


def _mounts(folder: Path) -> list[str]:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    return [mount for mount in mounts if mount.startswith(f"{folder}/")]


def _cgroups(group: str) -> list[Path]:
    """In both versions of cgroups, and one of two names of the same."""
    return sorted({path.resolve() for path in (CGROUPS / group, *CGROUPS.glob(f"*/{group}")) if path.is_dir()})
