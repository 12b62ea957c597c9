"""A cluster of hosts that are real `etcdlock` processes over a real etcd, as the tests of the command line see it.

Nothing here waits for time to pass: it waits for output, a process's end, or a change in etcd, with a deadline.
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import etcdlock
from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.keyspace import Keyspace
from etcdlock.ports import Delete, KeyValue, Op, Put, Snapshot, Txn
from etcdlock.survey import Survey, take_survey

DEADLINE_SECONDS = 40.0

SHORT_TIMING = {
    "ttl_seconds": 3,
    "hold_off_seconds": 4.5,
    "renew_every_seconds": 0.7,
    "try_timeout_seconds": 0.7,
    "kill_seconds": 0.5,
    "guard_lag_seconds": 0.5,
}
"""Guests are stopped 3 s after the last heartbeat, and silence is proof 8.5 s after a crash."""

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    def document(self) -> Any:
        """What `--json` printed."""
        return json.loads(self.out)


class Running:
    """A command that runs; its output is read line by line, its log is in `err`."""

    def __init__(
        self, command: list[str], /, *, environment: Mapping[str, str], log: Path, stdin: int = subprocess.DEVNULL
    ) -> None:
        self.log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command, env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=errors, bufsize=0
            )

    @property
    def err(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def line(self) -> str:
        """The next line that the guest prints."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(DEADLINE_SECONDS), f"nothing was printed; stderr: {self.err}"
        return self.process.stdout.readline().decode().rstrip("\n")

    def says(self, words: str, /) -> None:
        """Come back when the log has these words."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while words not in self.err:
            assert time.monotonic() < deadline, f"never said {words!r}: {self.err}"
            assert self.process.poll() is None, f"ended before it said {words!r}: {self.err}"
            time.sleep(0.02)

    def send(self, number: int, /) -> None:
        self.process.send_signal(number)

    def ended(self) -> Done:
        """Wait for its end."""
        out, _ = self.process.communicate(timeout=DEADLINE_SECONDS)
        return Done(self.process.returncode, out.decode(errors="replace"), self.err)

    def end(self) -> None:
        """End it if a test has failed before it could; SIGTERM also ends the guest."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
        self.process.kill()
        self.process.communicate()


@dataclass(slots=True)
class Cluster:
    """A cluster of its own in the etcd that all tests share."""

    endpoint: str
    name: str
    folder: Path
    timing: Mapping[str, float] = field(default_factory=dict)
    may_stay: set[str] = field(default_factory=set)
    started: list[Running] = field(default_factory=list)

    @property
    def keys(self) -> Keyspace:
        return Keyspace(cluster=self.name)

    # --- hosts -----------------------------------------------------------------------------------------------------

    def environment(self, host: str, settings: Mapping[str, str], /) -> dict[str, str]:
        """Of a host: settings by variables only, the machine's own file set aside."""
        return {
            **os.environ,
            "PYTHONPATH": str(Path(etcdlock.__file__).parents[1]),
            "COLUMNS": "80",
            "ETCDLOCK_CONFIG": os.devnull,
            "ETCDLOCK_ENDPOINTS": self.endpoint,
            "ETCDLOCK_CLUSTER": self.name,
            "ETCDLOCK_HOST_ID": host,
            "ETCDLOCK_DISK_IDENTITY": "path",  # most disks here are no more than names
            "ETCDLOCK_ALLOW_UNSAFE_ETCD": "true",
            "ETCDLOCK_RUN_FOLDER": str(self.folder / f"run-{host}"),
            "ETCDLOCK_STATE_FOLDER": str(self.folder / f"state-{host}"),
            **{f"ETCDLOCK_TIMING__{name.upper()}": str(value) for name, value in self.timing.items()},
            **settings,
        }

    def do(self, *arguments: str | bytes, host: str = "a", **settings: str) -> Done:
        """Run `etcdlock` on a host to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "etcdlock", *arguments],
            env=self.environment(host, settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def do_all(self, *commands: Sequence[str | bytes], host: str = "a", **settings: str) -> list[Done]:
        """Several commands beside each other, which have nothing to do with one another."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda words: self.do(*words, host=host, **settings), commands))

    def start(self, *arguments: str, host: str = "a", **settings: str) -> Running:
        """Start `etcdlock` on a host; it is ended with the test."""
        return self._start(arguments, self.environment(host, settings), stdin=subprocess.DEVNULL)

    def start_reading(self, *arguments: str, host: str = "a", **settings: str) -> Running:
        """The same for one that reads what the test writes to it."""
        return self._start(arguments, self.environment(host, settings), stdin=subprocess.PIPE)

    def _start(self, arguments: Sequence[str], environment: Mapping[str, str], /, *, stdin: int) -> Running:
        command = [sys.executable, "-m", "etcdlock", *arguments]
        log = self.folder / f"log-{len(self.started)}"
        running = Running(command, environment=environment, log=log, stdin=stdin)
        self.started.append(running)
        return running

    def guest(self, *arguments: str, host: str = "a", script: str = "exec sleep 300", **settings: str) -> Running:
        """Start a guest and come back when it runs."""
        running = self.start("run", *arguments, "--", "sh", "-c", f"echo runs; {script}", host=host, **settings)
        assert running.line() == "runs"
        return running

    # --- etcd ------------------------------------------------------------------------------------------------------

    def with_store(self, use: Callable[[EtcdStore], Awaitable[R]], /) -> R:
        async def run() -> R:
            store = EtcdStore(EtcdOptions(endpoints=(self.endpoint,)))
            try:
                async with asyncio.timeout(DEADLINE_SECONDS):
                    return await use(store)
            finally:
                await store.close()

        return asyncio.run(run())

    def snapshot(self) -> Snapshot:
        return self.with_store(lambda store: store.read(self.keys.everything))

    def survey(self) -> Survey:
        return take_survey(self.snapshot(), keys=self.keys)

    def found(self) -> tuple[KeyValue, ...]:
        """Everything of the cluster but its contract."""
        return tuple(item for item in self.snapshot().found if item.key != self.keys.contract)

    def do_in_etcd(self, *ops: Op) -> None:
        """What an operator would do with etcdctl."""
        self.with_store(lambda store: store.txn(Txn((), ops)))

    def put(self, values: Mapping[str, bytes], /) -> None:
        """Write keys that the test leaves there."""
        self.may_stay |= values.keys()
        self.do_in_etcd(*(Put(key, value) for key, value in values.items()))

    def revoke_sessions(self, host: str, /) -> None:
        """Revoke the leases of a host's sessions, as an operator or a confused etcd would."""

        async def revoke(store: EtcdStore) -> None:
            for item in (await store.read(self.keys.sessions(host))).found:
                await store.revoke(item.lease)

        self.with_store(revoke)

    def until(self, holds: Callable[[Survey], bool], /) -> Survey:
        """Come back when the cluster is so; looks again at every change."""

        async def wait(store: EtcdStore) -> Survey:
            seen = await store.read(self.keys.everything)
            survey = take_survey(seen, keys=self.keys)
            async with aclosing(store.watch((self.keys.everything,), after_revision=seen.revision)) as events:
                while not holds(survey):
                    await anext(events)
                    survey = take_survey(await store.read(self.keys.everything), keys=self.keys)
            return survey

        return self.with_store(wait)

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> tuple[str, ...]:
        """End what runs and delete everything; the keys that nobody said may stay."""
        for running in self.started:
            running.end()
        left = tuple(item.key for item in self.found() if item.key not in self.may_stay)
        self.do_in_etcd(Delete(self.keys.everything))
        return left


def kill_host(running: Running, /, *, guests: Iterable[int]) -> None:
    """What a power cut does: SIGKILL to `etcdlock run` and all that it has started."""
    victims = [running.process.pid, *children(running.process.pid), *guests]
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    running.ended()


def children(pid: int) -> list[int]:
    """And theirs."""
    tasks = Path(f"/proc/{pid}/task")
    found = [int(word) for task in tasks.iterdir() for word in (task / "children").read_text().split()]
    return [*found, *(inner for child in found for inner in children(child))]
