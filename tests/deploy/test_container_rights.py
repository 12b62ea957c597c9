"""What docs/CONTAINERS.md says of each capability of an agent in a container: tried with all, and without each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "CONTAINERS.md").read_text(encoding="utf-8")
NAMED = tuple(re.findall(r"^\| `([A-Z_]+)` \|", PAGE, flags=re.MULTILINE))
ADDED = tuple(re.findall(r"--cap-add ([A-Z_]+)", PAGE))
STRANGER = 65534

PROBES = """
import os, sys
from etcdlock.adapters.host_processes import has_open
from etcdlock.api.server import _let_in
from etcdlock.errors import InvalidSetting
from etcdlock.guard.__main__ import may_lock_all
from etcdlock.model import Mode, Resource

pid, file = int(sys.argv[1]), sys.argv[2]
probes = {
    "stop a guest": lambda: os.kill(pid, 0),
    "see that a disk is closed": lambda: has_open(pid, Resource("path", file, Mode.EXCLUSIVE, file)) and 1 / 0,
    "let api_group in": lambda: _let_in(file, group=12345),
    "lock memory": lambda: may_lock_all() or 1 / 0,
    "go before others": lambda: os.setpriority(os.PRIO_PROCESS, 0, -15),
}
for what, probe in probes.items():
    try:
        probe()
    except (PermissionError, ZeroDivisionError, InvalidSetting):
        print(what)
"""
LOST = {
    "KILL": "stop a guest",
    "SYS_PTRACE": "see that a disk is closed",
    "DAC_READ_SEARCH": "see that a disk is closed",
    "CHOWN": "let api_group in",
    "IPC_LOCK": "lock memory",
    "SYS_NICE": "go before others",
}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can have some of root's rights")


@pytest.fixture(scope="module")
def guest() -> Iterator[int]:
    """Another user's, as QEMU is."""
    with subprocess.Popen(["sleep", "60"], user=STRANGER, group=STRANGER, extra_groups=[]) as process:
        yield process.pid
        process.kill()


def refused(guest: int, file: Path, *, without: str = "") -> list[str]:
    """What cannot be done with the rights that the page gives, and without one of them."""
    file.touch()
    rights = ",".join(["-all", *(f"+{name.lower()}" for name in ADDED if name != without)])
    limits = ["prlimit", "--memlock=65536:65536", "--nice=0:0"]
    held = ["setpriv", f"--bounding-set={rights}", "--inh-caps=-all", "--no-new-privs"]
    command = [*limits, *held, sys.executable, "-c", PROBES, str(guest), str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


def test_the_page_names_the_rights_that_its_command_gives_and_each_is_tried_here() -> None:
    assert set(NAMED) == set(ADDED) == set(LOST)


def test_the_agents_of_kubernetes_have_all_of_them() -> None:
    (agent,) = re.findall(r"add: \[(.*)\]", (ROOT / "deploy" / "kubernetes" / "agent.yaml").read_text(encoding="utf-8"))
    assert set(ADDED) <= set(agent.split(", "))


def test_with_all_of_them_an_agent_does_all_that_it_must(guest: int, tmp_path: Path) -> None:
    assert refused(guest, tmp_path / "disk") == []


@pytest.mark.parametrize("name", LOST)
def test_without_one_it_cannot_do_what_the_page_says(guest: int, tmp_path: Path, name: str) -> None:
    assert refused(guest, tmp_path / "disk", without=name) == [LOST[name]]
