"""Programs that follow the convention of fence agents, run for real: what is said to them, and what they answer."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from etcdlock.adapters.fence_agent import FenceAgent
from etcdlock.errors import NotConfirmedOff
from etcdlock.ports import Power

SECRET = "not for anybody's eyes"  # noqa: S105 - it is to be found nowhere

RECORDS = """#!{python}
import os, sys
here = os.path.dirname(os.path.abspath(__file__))
given = sys.stdin.read()
open(os.path.join(here, "given"), "a").write(given)
open(os.path.join(here, "seen"), "a").write(repr((sys.argv, dict(os.environ))))
print("logged in with", given)
sys.exit({code})
"""


def program(folder: Path, text: str, /) -> str:
    path = folder / "fence_it"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def recorder(folder: Path, *, code: int) -> FenceAgent:
    (folder / "secret").write_text(f"{SECRET}\n", encoding="utf-8")
    path = program(folder, RECORDS.format(python=sys.executable, code=code))
    return FenceAgent(path, {"ip": "10.0.0.7", "lanplus": "1"}, {"password": str(folder / "secret")}, 20.0)


def test_options_and_secrets_go_through_standard_input_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETCDLOCK_PASSWORD_FILE", "/ours")
    agent = recorder(tmp_path, code=1)
    with pytest.raises(NotConfirmedOff, match=r"fence_it \(ip 10.0.0.7\): off: exit code 1, logged in with") as refused:
        asyncio.run(agent.off())
    lines = (tmp_path / "given").read_text(encoding="utf-8").splitlines()
    assert lines == ["ip=10.0.0.7", "lanplus=1", f"password={SECRET}", "action=off"]
    seen = (tmp_path / "seen").read_text(encoding="utf-8")
    assert SECRET not in seen + str(refused.value) + repr(agent)
    assert "password=****" in str(refused.value)
    assert "lanplus" not in seen
    assert "ETCDLOCK_" not in seen


@pytest.mark.parametrize(
    ("code", "power"), [(0, Power.ON), (2, Power.OFF), (1, Power.UNKNOWN), (3, Power.UNKNOWN), (127, Power.UNKNOWN)]
)
def test_the_exit_code_of_status_is_the_answer_and_only_two_means_off(tmp_path: Path, code: int, power: Power) -> None:
    found, why = asyncio.run(recorder(tmp_path, code=code).state())
    assert found is power
    assert bool(why) is (power is Power.UNKNOWN)
    assert SECRET not in why


def test_one_that_does_not_answer_is_killed_with_all_that_it_has_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    agent = FenceAgent(program(tmp_path, f"#!/bin/sh\nsleep 300 & echo $! > {child}\nwait\n"), timeout_seconds=1.0)
    with pytest.raises(NotConfirmedOff, match="off: no answer in 1 s"):
        asyncio.run(agent.off())
    found = Path(f"/proc/{child.read_text(encoding='utf-8').strip()}/cmdline")
    assert not (found.exists() and found.read_bytes())  # at most a body that nobody has reaped


@pytest.mark.parametrize("fault", ["no program", "not executable", "no secret"])
def test_one_that_cannot_be_run_says_nothing_of_its_host(tmp_path: Path, fault: str) -> None:
    agent = recorder(tmp_path, code=2)
    match fault:
        case "no program":
            Path(agent.program).unlink()
        case "not executable":
            Path(agent.program).chmod(0o644)
        case _:
            (tmp_path / "secret").unlink()
    power, why = asyncio.run(agent.state())
    assert (power, bool(why)) == (Power.UNKNOWN, True)
