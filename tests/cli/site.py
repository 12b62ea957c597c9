"""A host with an agent of its own, and a way to it on which answers are lost."""

from __future__ import annotations

import re
import signal
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.cli.hosts import Cluster, Done, Running


def on_host(folder: Path) -> dict[str, str]:
    """Settings of an agent that keeps everything in a folder."""
    return {
        "ETCDLOCK_RUN_FOLDER": str(folder / "run"),
        "ETCDLOCK_LOCK_SOCKET": str(folder / "lock.sock"),
        "ETCDLOCK_API_SOCKET": str(folder / "api.sock"),
        "ETCDLOCK_LOG_LEVEL": "info",
    }


class Site:
    """A host with an agent."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.settings = on_host(folder) | {"ETCDLOCK_LOG_LEVEL": "warning"}
        self.socket = folder / "api.sock"
        self.agents: list[Running] = []

    def start_agent(self, **settings: str) -> Running:
        agent = self.cluster.start("agent", **self.settings | {"ETCDLOCK_LOG_LEVEL": "info"} | settings)
        agent.says("agent_ready")
        self.agents.append(agent)
        return agent

    def do(self, *arguments: str, **settings: str) -> Done:
        return self.cluster.do(*arguments, **self.settings | settings)

    def run(self, *arguments: str, script: str = "exec sleep 300", **settings: str) -> Running:
        """A guest that runs."""
        return self.cluster.guest(*arguments, script=script, **self.settings | settings)

    def kill_agent(self) -> None:
        agent = self.agents.pop()
        agent.send(signal.SIGKILL)
        agent.ended()

    def end(self) -> None:
        """In good order, so that nothing of the session stays."""
        for agent in self.agents:
            agent.send(signal.SIGTERM)
            assert agent.ended().status == 0


class LossyPath(socketserver.ThreadingUnixStreamServer):
    """Stands before the agent's socket; the answers to the first `losses` acquires do not come through."""

    daemon_threads = True

    def __init__(self, site: Site, *, losses: int) -> None:
        self.path = site.socket.with_name("lossy.sock")
        self.agent = str(site.socket)
        self.losses = losses
        super().__init__(str(self.path), _Passing)

    def loses(self, request: bytes) -> bool:
        """Whether the answer to this one is lost."""
        if b"/acquire " not in request:
            return False
        self.losses -= 1
        return self.losses >= 0


class _Passing(socketserver.BaseRequestHandler):
    """One request, one answer: what the client has sent when it waits is all of it."""

    server: LossyPath

    def handle(self) -> None:
        head = self.request.recv(1 << 16)
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        while length and len(head.partition(b"\r\n\r\n")[2]) < int(length[1]):
            head += self.request.recv(1 << 16)
        with closing(socket.socket(socket.AF_UNIX)) as agent:
            agent.connect(self.server.agent)
            agent.sendall(head)
            answer = b"".join(iter(lambda: agent.recv(1 << 16), b""))
        if not self.server.loses(head):
            self.request.sendall(answer)


@contextmanager
def lossy(site: Site, *, losses: int) -> Iterator[dict[str, str]]:
    """Settings by which commands reach the agent, in this way."""
    with LossyPath(site, losses=losses) as path:
        threading.Thread(target=path.serve_forever, daemon=True).start()
        yield {"ETCDLOCK_API_SOCKET": str(path.path)}
        path.shutdown()
