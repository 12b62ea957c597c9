"""The program of a container that stands for a host: an agent, kept as a service, and a hypervisor.

Requests come as one JSON document a line: from `vm` on a Unix socket, and from other hosts, which migrate guests to
this one, on TCP. There is no password and no TLS on that: only the compose file's own network reaches it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from hypervisor import Answer, Hypervisor, refusal

from etcdlock.api.client import AgentClient
from etcdlock.config import load
from etcdlock.errors import EtcdlockError

SOCKET, PORT = "/run/vm.sock", 7000
AGENT = ("etcdlock", "agent", "--log-level", "info")
FROM_VM = frozenset(("start", "stop", "migrate", "list"))
FROM_OTHERS = frozenset(("incoming", "switch over"))
ANSWER_SECONDS = 120.0
AGAIN_SECONDS = 1.0


class Unix(socketserver.ThreadingUnixStreamServer):
    """Where `vm` asks."""

    daemon_threads = True


class Tcp(socketserver.ThreadingTCPServer):
    """Where other hosts ask."""

    daemon_threads = True
    allow_reuse_address = True


class Host:
    """Everything of this container."""

    def __init__(self) -> None:
        settings = load()
        agent = AgentClient(settings.api_path, timeout_seconds=settings.acquire_seconds + 5)
        self._hypervisor = Hypervisor(host=settings.host_id, agent=agent)
        self._ends = threading.Event()

    def do(self, request: dict[str, Any], /, *, allowed: frozenset[str]) -> Answer:
        """One request."""
        if request["do"] not in allowed:
            raise EtcdlockError(f"{request['do']} is not to be had here")
        match request:
            case {"do": "start", "name": name, "wait": wait}:
                return self._hypervisor.start(name, wait_seconds=wait)
            case {"do": "stop", "name": name}:
                return self._hypervisor.stop(name)
            case {"do": "migrate", "name": name, "to": to}:
                return self._hypervisor.migrate(name, ask=lambda asked: ask((to, PORT), asked))
            case {"do": "incoming", "name": name}:
                return self._hypervisor.incoming(name)
            case {"do": "switch over", "name": name, "memory": memory, "run": run}:
                return self._hypervisor.switch_over(name, memory=memory, run=run)
            case {"do": "list"}:
                return self._hypervisor.list()
        raise EtcdlockError(f"not understood: {request}")

    def run(self) -> None:
        """Until the container is told to stop; then guests and agent end in order."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ends.set())
        ours, others = handler(self, allowed=FROM_VM), handler(self, allowed=FROM_OTHERS)
        for server in (Unix(SOCKET, ours), Tcp(("", PORT), others)):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        while not self._ends.is_set():
            agent = subprocess.Popen(AGENT)
            while agent.poll() is None and not self._ends.wait(0.2):
                pass
            if not self._ends.is_set():
                print(f"host: the agent has ended with {agent.returncode}, and is started again", file=sys.stderr)
                self._ends.wait(AGAIN_SECONDS)
        for name in self._hypervisor.machines():
            self._hypervisor.stop(name)
        agent.terminate()
        agent.wait()


def handler(host: Host, /, *, allowed: frozenset[str]) -> type[socketserver.StreamRequestHandler]:
    """One connection: a request and its answer."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                answer = host.do(json.loads(self.rfile.readline()), allowed=allowed)
            except EtcdlockError as error:
                answer = refusal(error)
            except (OSError, ValueError, KeyError, TypeError) as error:
                answer = {"error": f"failed here: {error!r}"}
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    return Handler


def ask(place: str | tuple[str, int], request: Answer, /) -> Answer:
    """One request to a host: by its name and port, or on this one's socket."""
    with socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET) as connection:
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(place)
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as answers:
            answer: Answer = json.loads(answers.readline())
    return answer


if __name__ == "__main__":
    Path(os.environ.get("ETCDLOCK_RUN_FOLDER", "/run/etcdlock")).mkdir(mode=0o755, parents=True, exist_ok=True)
    Host().run()
