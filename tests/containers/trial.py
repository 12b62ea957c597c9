"""docker-compose.yml of this tree, brought up under a project name of its own and driven as a user would."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote

from etcdlock.adapters.embedded_ports import free_ports

HOSTS = ("host-a", "host-b", "host-c")
ETCDS = ("etcd-1", "etcd-2", "etcd-3")
PATIENCE_SECONDS = 90.0
OUTLIVED_SECONDS = 3.0
"""Well within the 9.9 s that quick.yml lets a guest run without etcd, also on a machine that has much else to do."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A running one."""

    root: Path
    environment: dict[str, str]
    up_seconds: float

    def compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(*arguments, root=self.root, environment=self.environment)

    def on(self, host: str, *command: str) -> subprocess.CompletedProcess[str]:
        """A command on a host: what `docker compose exec` does, without its being started first."""
        return subprocess.run(
            ["docker", "exec", self.container(host), *command],
            env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def as_written(self, line: str) -> subprocess.CompletedProcess[str]:
        """A line of a page that begins with `docker compose`."""
        words = shlex.split(line, comments=True)
        assert words[:2] == ["docker", "compose"], line
        without_terminal = ["-T"] if words[2] == "exec" else []
        return self.compose(words[2], *without_terminal, *words[3:])

    def docker(self, *arguments: str) -> str:
        """What it prints."""
        done = subprocess.run(["docker", *arguments], env=self.environment, check=True, capture_output=True, text=True)
        return done.stdout

    def container(self, service: str) -> str:
        """Its id."""
        labels = {"project": self.environment["COMPOSE_PROJECT_NAME"], "service": service}
        filters = [word for name in labels for word in ("--filter", f"label=com.docker.compose.{name}={labels[name]}")]
        return self.docker("ps", "--all", "--quiet", *filters).strip()

    def logs(self) -> str:
        """What its containers have said last."""
        return logs(self.root, self.environment)

    def pause_etcd(self) -> None:
        """All members at once, for less time than a guest outlives."""
        members = [self.container(service) for service in ETCDS]
        self.docker("pause", *members)
        time.sleep(OUTLIVED_SECONDS)
        self.docker("unpause", *members)

    def cut_off(self, host: str) -> None:
        """From etcd and everything else."""
        self.docker("network", "disconnect", self._network, self.container(host))

    def connect(self, host: str) -> None:
        self.docker("network", "connect", "--alias", host, self._network, self.container(host))

    @property
    def _network(self) -> str:
        return f"{self.environment['COMPOSE_PROJECT_NAME']}_default"

    def records(self, guest: str, *, seen_from: str) -> dict[str, int]:
        """Who has written how much of its disk; nothing is wrong with that."""
        judged = self.on(seen_from, "vm", "check", guest)
        assert judged.returncode == 0, judged.stdout
        told = re.findall(r"^(\S+) \(token \d+\): (\d+) rec", judged.stdout, re.MULTILINE)
        return {host: int(count) for host, count in told}

    def prometheus(self, query: str) -> list[dict[str, str]]:
        """The labels of what it answers."""
        port = self.environment["PROMETHEUS_PORT"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={quote(query)}", timeout=10) as answer:
            return [found["metric"] for found in json.load(answer)["data"]["result"]]


def eventually(holds: Callable[[], bool], /, *, within_seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + within_seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.5)


@contextmanager
def trial(root: Path, *, quick: bool = True) -> Iterator[Trial]:
    """Up until the block ends; then its containers, networks, volumes and nothing else are removed."""
    environment = {
        **os.environ,
        "COMPOSE_PROJECT_NAME": f"etcdlock-test-{uuid.uuid4().hex[:8]}",
        "COMPOSE_FILE": "docker-compose.yml" + (":tests/containers/quick.yml" if quick else ""),
        "PROMETHEUS_PORT": str(free_ports(1)[0].client),
    }
    try:
        began = time.monotonic()
        up = run("up", "--detach", "--no-build", root=root, environment=environment)
        assert up.returncode == 0, up.stderr + logs(root, environment)
        for host in HOSTS:
            ready = run("exec", "-T", host, "vm", "ready", root=root, environment=environment)
            assert ready.returncode == 0, ready.stderr + logs(root, environment)
        yield Trial(root, environment, time.monotonic() - began)
    finally:
        run("down", "--volumes", "--remove-orphans", "--timeout", "0", root=root, environment=environment)


@cache
def compose() -> tuple[str, ...]:
    """Whichever is there."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    return ("docker", "compose") if plugin else ("docker-compose",)


def run(*arguments: str, root: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A command of Compose's."""
    return subprocess.run(
        [*compose(), *arguments],
        cwd=root, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


def logs(root: Path, environment: dict[str, str]) -> str:
    return run("logs", "--tail", "60", root=root, environment=environment).stdout
