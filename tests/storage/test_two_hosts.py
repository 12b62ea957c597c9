"""Two hosts, each with mounts of its own, over one etcd: one disk under two paths is one lock, two disks under one path
are two. They share a kernel, so what tells their own files apart here is the file system, not the boot.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from etcdlock.api.client import AgentClient
from etcdlock.errors import HeldElsewhere, NotIdentified, Refused
from etcdlock.model import DomainId, Mode, Owner, Resource
from tests.cli.hosts import Cluster, Running
from tests.cli.site import on_host
from tests.storage.test_this_host import loop, run

MIB = 2**20
AUTO = {"ETCDLOCK_DISK_IDENTITY": "auto"}


@dataclass
class Host:
    """What runs here sees mounts that no other host does."""

    cluster: Cluster
    name: str
    folder: Path
    mounts: list[tuple[str, ...]]

    def start(self, *arguments: str, settings: dict[str, str] | None = None) -> Running:
        mounting = "".join(" ".join(("mount", *words)) + " && " for words in self.mounts)
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f'{mounting}exec "$@"', "sh"]
        running = Running(
            [*command, sys.executable, "-m", "etcdlock", *arguments],
            environment=self.cluster.environment(self.name, AUTO | (settings or {})),
            log=self.folder / f"log-{len(self.cluster.started)}",
        )
        self.cluster.started.append(running)
        return running

    def guest(self, disk: Path | str) -> Running:
        running = self.start("run", "--via", "own", "--disk", str(disk), "--", "sh", "-c", "echo runs; exec sleep 300")
        assert running.line() == "runs", running.err
        return running

    def refused(self, disk: Path | str) -> str:
        done = self.start("run", "--via", "own", "--disk", str(disk), "--", "true").ended()
        assert done.status == 100, done.err
        return done.err

    def agent(self) -> AgentClient:
        folder = self.folder / f"agent-{self.name}"
        folder.mkdir()
        self.start("agent", settings=on_host(folder)).says("agent_ready")
        return AgentClient(str(folder / "api.sock"), timeout_seconds=30.0)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    if os.geteuid() != 0:
        pytest.skip("needs root, for mounts and mount namespaces: sudo")
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def shared(stack: ExitStack, tmp_path: Path) -> Path:
    """A folder that both hosts mount, each at a place of its own."""
    folder = tmp_path / "shared"
    folder.mkdir()
    for name in ("at-a", "at-b"):
        (tmp_path / name).mkdir()
    return folder


def sees(cluster: Cluster, name: str, folder: Path, *mounts: tuple[str, ...]) -> Host:
    return Host(cluster, name, folder, list(mounts))


def own(name: str, folder: Path) -> tuple[str, ...]:
    """A file system that one host alone has, made like the other's."""
    image = folder / f"own-{name}.img"
    image.touch()
    os.truncate(image, 8 * MIB)
    run("mkfs.ext4", "-q", image)
    (folder / "own").mkdir(exist_ok=True)
    return "-o", "loop", str(image), str(folder / "own")


def test_a_disk_that_two_hosts_mount_at_two_places_is_locked_once(
    cluster: Cluster, shared: Path, tmp_path: Path
) -> None:
    a = sees(cluster, "a", tmp_path, ("--bind", str(shared), str(tmp_path / "at-a")))
    b = sees(cluster, "b", tmp_path, ("--bind", str(shared), str(tmp_path / "at-b")))
    (shared / "vm1.img").touch()
    (shared / "link").symlink_to("vm1.img")
    a.guest(tmp_path / "at-a" / "vm1.img")
    for path in ("vm1.img", "link"):
        assert f"{tmp_path}/at-a/vm1.img is held" in b.refused(tmp_path / "at-b" / path)


def test_a_disk_that_one_host_has_as_a_file_and_the_other_as_a_device_is_locked_once(
    cluster: Cluster, stack: ExitStack, tmp_path: Path
) -> None:
    file = tmp_path / "disk.img"
    file.touch()
    os.truncate(file, MIB)
    devices = [stack.enter_context(loop(file)) for _ in range(2)]
    a, b = sees(cluster, "a", tmp_path), sees(cluster, "b", tmp_path)
    a.guest(devices[0])
    assert f"{devices[0]} is held" in b.refused(devices[1])
    assert f"{devices[0]} is held" in b.refused(file)


def test_files_of_one_path_on_file_systems_of_two_hosts_own_do_not_block_each_other(
    cluster: Cluster, stack: ExitStack, tmp_path: Path
) -> None:
    a, b = (sees(cluster, name, tmp_path, own(name, tmp_path)) for name in ("a", "b"))
    for host in (a, b):
        host.guest(tmp_path / "own" / "vm1.img")
    names = {one.name for lock in cluster.survey().locks for one in lock.stored.record.resources}
    assert len(names) == 2
    assert f"{tmp_path}/own/vm1.img is held" in a.refused(tmp_path / "own" / "vm1.img"), "on its own host it is"


def test_agents_name_disks_by_what_their_own_host_sees(
    cluster: Cluster, stack: ExitStack, shared: Path, tmp_path: Path
) -> None:
    places = [("--bind", str(shared), str(tmp_path / f"at-{name}")) for name in ("a", "b")]
    hosts = [
        sees(cluster, name, tmp_path, place, own(name, tmp_path)) for name, place in zip("ab", places, strict=True)
    ]
    (shared / "vm1.img").touch()
    a, b = (host.agent() for host in hosts)
    processes = [stack.enter_context(subprocess.Popen(("sleep", "300"))) for _ in range(3)]
    for process in processes:
        stack.callback(process.kill)
    owners = [Owner(DomainId(uuid4(), f"vm{number}"), process.pid) for number, process in enumerate(processes)]
    own_file = Resource("", "", Mode.EXCLUSIVE, f"{tmp_path}/own/vm1.img")
    one, other = (Resource("", "", Mode.EXCLUSIVE, f"{tmp_path}/at-{name}/vm1.img") for name in "ab")
    a.acquire(owners[0], [one, own_file])
    with pytest.raises(HeldElsewhere, match=r"at-a/vm1\.img is held"):
        b.acquire(owners[1], [other])
    b.acquire(owners[2], [own_file])
    with pytest.raises(NotIdentified, match="its folder does not exist") as refusal:
        b.add(owners[2].domain.uuid, Resource("", "", Mode.EXCLUSIVE, "/nowhere/disk.img"))
    assert isinstance(refusal.value, Refused)
    (shared / "vm1.img").unlink()
    a.remove(owners[0].domain.uuid, one)
    b.add(owners[2].domain.uuid, other)


def test_hosts_that_would_name_disks_otherwise_do_not_join_one_cluster(cluster: Cluster, tmp_path: Path) -> None:
    sees(cluster, "a", tmp_path).guest(tmp_path / "disk.img")
    other = str(tmp_path / "other.img")
    done = cluster.do("run", "--disk", other, "--", "true", host="b", ETCDLOCK_DISK_IDENTITY="path")
    assert done.status == 104
    assert "disk_identity: here path, cluster auto" in done.err
    assert "identity_rules: here None, cluster 1" in done.err


def test_libvirts_door_names_disks_alike_and_gives_back_a_disk_whose_file_is_gone(
    cluster: Cluster, stack: ExitStack, shared: Path, tmp_path: Path
) -> None:
    disk = shared / "vm1.img"
    disk.touch()
    for name in ("a", "b"):
        sees(cluster, name, tmp_path, ("--bind", str(shared), str(tmp_path / f"at-{name}"))).agent()
    keeps = contender(stack, tmp_path / "agent-a", tmp_path / "at-a" / "vm1.img")
    cluster.until(lambda survey: len(survey.locks) == 1)
    wants = contender(stack, tmp_path / "agent-b", tmp_path / "at-b" / "vm1.img")
    assert wants.stdout is not None
    assert wants.stdout.readline() == "contending\n"
    assert ended(wants)["won"] == 0
    disk.unlink()
    assert ended(keeps) == {"tries": 1, "won": 1}, "it was given back without an error"


def contender(stack: ExitStack, agent: Path, disk: Path) -> subprocess.Popen[str]:
    """A guest that asks for the disk as libvirt does, again and again until it gets it, and then keeps it."""
    program = stack.enter_context(
        subprocess.Popen(
            (sys.executable, "-m", "tests.libvirt.contender", str(agent / "lock.sock"), "", str(disk), "keep"),
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    stack.callback(program.kill)
    return program


def ended(program: subprocess.Popen[str]) -> dict[str, int]:
    """What it says of its tries."""
    program.terminate()
    out, _ = program.communicate(timeout=60)
    assert program.returncode == 0
    figures: dict[str, int] = json.loads(out.splitlines()[-1])
    return figures
