"""Two hosts on which one driver can be loaded, whichever it is; and guests, which are processes that only sleep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.driver import Capability, DomainId, Loaded, LockManager, load
from tests.cli.hosts import DEADLINE_SECONDS, Cluster, Running
from tests.cli.site import on_host

NOWHERE = Path(os.devnull)
GUEST = ("sleep", "300")
DRIVERS = ("etcd", "agent", "fcntl", "nop")


class Place:
    """Where one driver is tried: `a` and `b` are two hosts that share its locks."""

    def __init__(self, driver: str, cluster: Cluster) -> None:
        self.driver = driver
        self.cluster = cluster
        self._stack = ExitStack()
        self._loaded: dict[str, Loaded] = {}

    def settings(self, host: str, /, **more: Any) -> dict[str, Any]:
        return {
            "endpoints": (self.cluster.endpoint,),
            "cluster": self.cluster.name,
            "host_id": host,
            "allow_unsafe_etcd": True,
            "disk_identity": "path",
            "run_folder": str(self.cluster.folder / f"run-{host}"),
            "fcntl_folder": str(self.cluster.folder / "fcntl"),
            "acquire_seconds": 5.0,
            **({"timing": dict(self.cluster.timing)} if self.cluster.timing else {}),
            **more,
        }

    def load(self, host: str, /, **more: Any) -> Loaded:
        return load(self.driver, config=NOWHERE, settings=self.settings(host), **more)

    def on(self, host: str, /) -> Loaded:
        """Loaded once for all tests."""
        if host not in self._loaded:
            if self.driver == "agent":
                self._start_agent(host)
            self._loaded[host] = self._stack.enter_context(self.load(host))
        return self._loaded[host]

    def _start_agent(self, host: str, /) -> None:
        folder = self.cluster.folder / f"run-{host}"
        folder.mkdir(exist_ok=True)
        settings = on_host(folder) | {
            "ETCDLOCK_RUN_FOLDER": str(folder),
            "ETCDLOCK_API_SOCKET": str(folder / "agent.sock"),
            "ETCDLOCK_ACQUIRE_SECONDS": "5",
        }
        agent = self.cluster.start("agent", host=host, **settings)
        self._stack.callback(_end, agent)
        agent.says("agent_ready")

    def close(self) -> None:
        self._stack.close()


def _end(agent: Running) -> None:
    agent.send(signal.SIGTERM)
    assert agent.ended().status == 0


@contextmanager
def place(
    driver: str, etcd: EmbeddedEtcd, folder: Path, *, timing: Mapping[str, float] | None = None
) -> Iterator[Place]:
    cluster = Cluster(etcd.endpoints[0], f"test-{uuid4().hex[:12]}", folder, timing=timing or {})
    there = Place(driver, cluster)
    try:
        yield there
    finally:
        there.close()
        left = cluster.close()
    assert left == (), "left behind in etcd"


class Hand:
    """One test's guests; whatever lives at its end is killed and given back."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.disk = f"/san/{uuid4().hex}"
        self.domain = DomainId(uuid4(), "vm1")
        self._guests: list[tuple[LockManager, subprocess.Popen[bytes]]] = []

    def has(self, capability: Capability, /) -> bool:
        return capability in self.place.on("a").capabilities

    def manager(self, *disks: str, host: str = "a", domain: DomainId | None = None) -> LockManager:
        """Of the test's own domain, or another."""
        manager = LockManager(self.place.on(host), domain or self.domain)
        for disk in disks:
            manager.register(disk)
        return manager

    def other(self, *disks: str, host: str = "b") -> LockManager:
        """Of a domain that nobody else has."""
        return self.manager(*disks, host=host, domain=DomainId(uuid4(), "vm2"))

    def start(self, manager: LockManager, /, *, command: tuple[str, ...] = GUEST) -> subprocess.Popen[bytes]:
        guest = manager.start(command)
        self._guests.append((manager, guest))
        return guest

    def keep(self, manager: LockManager, guest: subprocess.Popen[bytes], /) -> None:
        """To be ended with the test."""
        self._guests.append((manager, guest))

    def process(self) -> subprocess.Popen[bytes]:
        """One that came through no supervisor."""
        process = subprocess.Popen(GUEST)
        self._guests.append((self.manager(), process))
        return process

    def end(self, manager: LockManager, guest: subprocess.Popen[bytes], /) -> None:
        guest.kill()
        guest.wait()
        manager.release()

    def close(self) -> None:
        for manager, guest in self._guests:
            guest.kill()
            guest.wait()
            manager.free()
        for manager, _ in self._guests:
            comes_true(lambda manager=manager: self._is_free(manager))  # type: ignore[misc]

    def _is_free(self, manager: LockManager, /) -> bool:
        lock = manager.inquire()
        return lock is None or not self.has(Capability.EXCLUSION)


def comes_true(holds: Callable[[], bool], /, *, within_seconds: float = DEADLINE_SECONDS) -> None:
    """Wait for it, with a deadline."""
    deadline = time.monotonic() + within_seconds
    while not holds():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)


@contextmanager
def fork() -> Iterator[None]:
    """A child of this process, which has all of its descriptors and does nothing, for the length of a block."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    try:
        yield
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)


def python(script: str) -> tuple[str, ...]:
    """A guest that runs this."""
    return (sys.executable, "-I", "-S", "-c", script)
