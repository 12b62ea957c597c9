"""The worked example of docs/EXAMPLE.md, run for real: two hosts, guests that sleep, stacks that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.api.client import AgentClient
from etcdlock.guard import table
from tests.driver.places import GUEST, Place, comes_true, place

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "docs/examples/stack.py"
DISK, MORE = "/san/vm1", "/san/vm1-more"


class Stack:
    """The example's own process on a host, and what it says."""

    def __init__(self, there: Place, host: str) -> None:
        folder = there.cluster.folder / f"stack-{host}"
        folder.mkdir(exist_ok=True)
        config = folder / "etcdlock.toml"
        settings = {"driver": there.driver, **there.settings(host)}
        config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
        self._process = subprocess.Popen(
            (sys.executable, str(PROGRAM), str(folder), str(config), *GUEST),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert self._line() == "ready\n"

    def does(self, *command: Any) -> Any:
        answer = self.says(*command)
        assert "done" in answer, answer
        return answer["done"]

    def says(self, *command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        found: dict[str, Any] = json.loads(self._line())
        return found

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=20)

    def end(self) -> None:
        self._process.communicate(timeout=20)
        assert self._process.returncode == 0


@pytest.fixture
def there(etcd: EmbeddedEtcd, tmp_path: Path) -> Iterator[Place]:
    with place("agent", etcd, tmp_path) as found:
        for host in "ab":
            found.on(host)
        yield found


def held(there: Place) -> dict[str, list[str]]:
    """Which host has which disks, as etcd says it."""
    locks = there.cluster.survey().locks
    return {lock.stored.record.owner.host: [item.path for item in lock.stored.record.resources] for lock in locks}


def guarded(there: Place, host: str) -> list[int]:
    client = AgentClient(str(there.cluster.folder / f"run-{host}" / "agent.sock"))
    return [guest["pid"] for guest in client.agent()["guests"]]


def test_a_stack_starts_plugs_migrates_and_stops_and_may_be_killed_in_between(there: Place) -> None:
    with ExitStack() as ends:
        a, b = Stack(there, "a"), Stack(there, "b")
        a.does("start", "vm1", DISK)
        a.does("plug", "vm1", MORE)
        (pid,) = a.does("pids").values()
        ends.callback(_end, pid)
        assert b.says("start", "vm2", MORE)["error"] == "HeldElsewhere"

        a.kill()
        assert (held(there), guarded(there, "a")) == ({"a": [DISK, MORE]}, [pid])
        a = Stack(there, "a")
        assert a.does("pids") == {"vm1": pid}
        a.does("unplug", "vm1", MORE)

        ticket = a.does("send", "vm1", "b")
        b.does("receive", "vm1", ticket)
        (lost,) = b.does("pids").values()
        a.does("switch", "vm1")
        b.kill()
        b = Stack(there, "b")
        assert (b.does("pids"), _is_alive(lost)) == ({}, False)
        a.does("stay", "vm1")
        assert held(there) == {"a": [DISK]}

        b.does("receive", "vm1", a.does("send", "vm1", "b"))
        (arrived,) = b.does("pids").values()
        ends.callback(_end, arrived)
        a.does("switch", "vm1")
        b.does("arrive", "vm1")
        assert a.says("stay", "vm1")["error"] == "Superseded"
        a.does("depart", "vm1")
        assert (held(there), guarded(there, "b"), _is_alive(pid)) == ({"b": [DISK]}, [arrived], False)

        b.does("stop", "vm1")
        assert (held(there), _is_alive(arrived)) == ({}, False)
        a.end()
        b.end()


def _is_alive(pid: int) -> bool:
    process = table.look_up(pid)
    return process is not None and process.alive


def _end(pid: int) -> None:
    if _is_alive(pid):
        os.kill(pid, signal.SIGKILL)
        comes_true(lambda: not _is_alive(pid))
