"""The units that take virtlockd's place, as systemd reads them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

from tests.deploy.test_libvirt_switch import DEPLOY, SCRIPT

SYSTEM, USER = DEPLOY.parent / "systemd", DEPLOY.parent / "systemd/user"
SERVICE, SOCKET = SYSTEM / "etcdlock-agent.service", SYSTEM / "etcdlock-agent.socket"


def read(unit: Path) -> RawConfigParser:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text(encoding="utf-8"))
    return parser


@pytest.mark.parametrize(("folder", "manager"), [(SYSTEM, "--system"), (USER, "--user")], ids=["system", "user"])
def test_systemd_understands_every_line_of_the_units(tmp_path: Path, folder: Path, manager: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    units = [tmp_path / unit.name for unit in sorted(folder.glob("etcdlock-*.s*"))]
    for unit in units:
        text = re.sub("/usr/bin/etcdlock[a-z-]*", "/bin/true", (folder / unit.name).read_text(encoding="utf-8"))
        unit.write_text(text, encoding="utf-8")
    verified = subprocess.run(
        ["systemd-analyze", manager, "verify", "--man=no", *units],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    complaints = [line for line in verified.stderr.splitlines() if "etcdlock" in line]
    assert (len(units), verified.returncode, complaints) == (4, 0, [])


@pytest.mark.parametrize("folder", [SYSTEM, USER], ids=["system", "user"])
def test_nothing_but_the_agent_itself_is_ever_ended_since_its_guard_must_outlive_it(folder: Path) -> None:
    service = read(folder / SERVICE.name)["Service"]
    assert service["KillMode"] == "process"
    assert service["OOMPolicy"] == "continue"


@pytest.mark.parametrize("folder", [SYSTEM, USER], ids=["system", "user"])
def test_nobody_ends_a_guard_and_the_agent_has_one_to_ask_for(folder: Path) -> None:
    unit, agent = read(folder / "etcdlock-guard@.service"), read(folder / SERVICE.name)["Unit"]
    assert (unit["Service"]["KillMode"], unit["Service"]["SendSIGKILL"]) == ("process", "no")
    assert unit["Unit"]["RefuseManualStop"] == "yes"
    assert unit["Unit"]["DefaultDependencies"] == "no", "else a shutdown would stop it"
    assert read(folder / "etcdlock-guard.socket")["Socket"]["Accept"] == "yes"
    assert (agent["Wants"].split()[0], "etcdlock-guard.socket" in agent["After"]) == ("etcdlock-guard.socket", True)


def test_the_record_of_the_guards_outlives_the_agent() -> None:
    assert read(SERVICE)["Service"]["RuntimeDirectoryPreserve"] == "yes"


def test_the_agent_is_started_again_whatever_ended_it_and_however_often() -> None:
    service = read(SERVICE)
    assert service["Service"]["Restart"] == "always"
    assert service["Unit"]["StartLimitIntervalSec"] == "0"


def test_libvirts_upgrade_of_virtlockd_reloads_the_agent_which_loses_nothing() -> None:
    service = read(SERVICE)
    assert service["Install"]["Alias"] == "virtlockd.service"
    assert service["Service"]["ExecReload"] == "/bin/kill -USR1 $MAINPID"


def test_the_agent_is_up_before_the_guests_are_and_down_after_them() -> None:
    before = read(SERVICE)["Unit"]["Before"].split()
    assert {"libvirtd.service", "virtqemud.service", "libvirt-guests.service"} <= set(before)


def test_only_root_may_speak_on_virtlockds_socket() -> None:
    socket = read(SOCKET)
    assert socket["Socket"]["ListenStream"] == "/run/libvirt/virtlockd-sock"
    assert socket["Socket"]["SocketMode"] == "0600"
    assert socket["Install"]["Alias"] == "virtlockd.socket"


EXPOSURE = {"etcdlock-agent.service": 3.8, "etcdlock-guard@.service": 9.5}
"""At most, by systemd's own measure; docs/SYSTEMD.md says why it is not less."""


@pytest.mark.parametrize("unit", EXPOSURE)
def test_a_unit_is_no_more_exposed_than_its_page_says(tmp_path: Path, unit: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze: make system-deps")
    copy = tmp_path / unit.replace("@", "@x")
    copy.write_text(re.sub("/usr/bin/etcdlock[a-z-]*", "/bin/true", (SYSTEM / unit).read_text(encoding="utf-8")))
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", copy],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for \S+ ([0-9.]+)", told.stdout)
    assert found, told.stderr
    assert float(found[1]) <= EXPOSURE[unit]
    page = (DEPLOY.parents[1] / "docs/SYSTEMD.md").read_text(encoding="utf-8")
    assert f"| `{unit}` | {EXPOSURE[unit]} |" in page


def test_the_scripts_have_nothing_that_shellcheck_finds() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    package = [DEPLOY.parent / "debian" / name for name in ("build", "try", "postinst", "prerm", "postrm")]
    checked = subprocess.run(["shellcheck", SCRIPT, *package], capture_output=True, text=True, check=False, timeout=60)
    assert checked.stdout == ""
