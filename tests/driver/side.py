"""One side of a migration: a management program that embeds the driver and does what it is asked over a connection.

It is forked by a server that has loaded all modules before, and may be killed at any time; the guest that it has
started lives on.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import UUID

from etcdlock.driver import DomainId, Loaded, Lock, LockManager, load
from etcdlock.errors import EtcdlockError
from tests.driver.places import GUEST, NOWHERE, Place

ANSWER_SECONDS = 40.0
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["__main__", "tests.driver.side", "etcdlock.driver.etcd", "etcdlock.hosting"])


def end_server() -> None:
    """As the standard library's own tests do it; it would be left over."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # noqa: SLF001
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]  # noqa: SLF001


class Failed(Exception):
    """What was said instead of a yes: the error's name, and its words."""

    def __str__(self) -> str:
        return str(self.args[0])


class Program:
    """A management program on a host, and what it is asked."""

    def __init__(self, there: Place, host: str, log: Path) -> None:
        self._link, theirs = _server.Pipe()
        self._process = _server.Process(target=_serve, args=(theirs, there.driver, there.settings(host), str(log)))
        self._process.start()
        theirs.close()
        self.answer()

    def do(self, step: str, *arguments: str) -> Any:
        """What it says. Raises `Failed`."""
        self.ask(step, *arguments)
        return self.answer()

    def ask(self, step: str, *arguments: str) -> None:
        self._link.send((step, arguments))

    def answer(self) -> Any:
        assert self._link.poll(ANSWER_SECONDS), "no answer"
        said, error = self._link.recv()
        if error:
            raise Failed(*error)
        return said

    def kill(self) -> None:
        self._process.kill()
        self.close()

    def close(self) -> None:
        """When nobody asks it any more it ends by itself."""
        self._link.close()
        self._process.join(ANSWER_SECONDS)
        assert self._process.exitcode is not None, "does not end"


class _Side:
    """Has one guest at the most."""

    def __init__(self, driver: Loaded) -> None:
        self._driver = driver
        self._manager: LockManager | None = None

    def do(self, step: str, arguments: tuple[str, ...]) -> Any:
        if step in ("start", "incoming", "attach"):
            return getattr(self, step)(*arguments)
        said = getattr(self._manager, step)(*arguments)
        return None if isinstance(said, Lock) else said

    def start(self, uuid: str, disk: str) -> int:
        """The guest's pid."""
        return self._started(LockManager(self._driver, DomainId(UUID(uuid), "vm1")), disk)

    def incoming(self, uuid: str, disk: str, ticket: str) -> int:
        """As `start`, for one that migrates in."""
        return self._started(LockManager.incoming(self._driver, DomainId(UUID(uuid), "vm1"), ticket=ticket), disk)

    def _started(self, manager: LockManager, disk: str) -> int:
        self._manager = manager
        manager.register(disk)
        return manager.start(GUEST, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).pid

    def attach(self, uuid: str) -> int:
        """The guest's pid."""
        self._manager = LockManager.attach(self._driver, DomainId(UUID(uuid), "vm1"))
        return self._manager.guest_pid()


def _serve(link: Connection, driver: str, settings: dict[str, Any], log: str) -> None:
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)
    with load(driver, config=NOWHERE, settings=settings) as loaded:
        side = _Side(loaded)
        link.send((None, None))
        while True:
            try:
                step, arguments = link.recv()
            except EOFError:
                return
            try:
                link.send((side.do(step, arguments), None))
            except EtcdlockError as error:
                link.send((None, (type(error).__name__, str(error))))
