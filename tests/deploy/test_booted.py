"""A machine with the package under a real systemd: the order of its units, and guests through upgrades and restarts."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from etcdlock.adapters.certificates import Authority
from tests.deploy.machine import Machine

pytestmark = pytest.mark.timeout(600)

DISK = "/var/lib/libvirt/images/etcdlock-test.img"
GUEST = f"""<domain type='qemu'><name>vm1</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/><source file='{DISK}'/>
<target dev='vda' bus='virtio'/></disk></devices></domain>"""


def entered(machine: Machine, unit: str) -> int:
    """When it became active, in microseconds since the machine's kernel was started."""
    return int(machine.property(unit, "ActiveEnterTimestampMonotonic"))


def main_pid(machine: Machine) -> int:
    return int(machine.property("etcdlock-agent.service", "MainPID"))


def lock(machine: Machine) -> Any:
    """The guest's."""
    (found,) = json.loads(machine.run("etcdlock", "status", "--via", "agent", "--json").stdout)["locks"]
    return found


@pytest.fixture(scope="module")
def guest(booted: Machine) -> str:
    """Its process, as the machine knows it."""
    booted.write(DISK, "x" * 65_536)
    booted.write("/vm1.xml", GUEST)
    booted.run("virsh", "define", "/vm1.xml")
    booted.run("virsh", "start", "vm1")
    return booted.run("pidof", "qemu-system-x86_64").stdout.strip()


def still_runs(machine: Machine, guest: str, before: Any) -> None:
    """The same process under the same lock."""
    assert machine.run("pidof", "qemu-system-x86_64").stdout.strip() == guest
    assert machine.run("virsh", "domstate", "vm1").stdout.strip() == "running"
    machine.until(lambda: not lock(machine)["stale"], what="the lock is in the session of the agent that runs")
    now = lock(machine)
    assert [now[name] for name in ("state", "pid", "token")] == ["held", int(guest), before["token"]]


def test_the_agent_is_up_before_libvirt_and_in_virtlockds_place(booted: Machine) -> None:
    started = int(booted.property("libvirtd.service", "ExecMainStartTimestampMonotonic"))
    assert 0 < entered(booted, "etcdlock-agent.service") <= started
    assert booted.property("virtlockd.service", "Id") == "etcdlock-agent.service"
    assert booted.property("virtlockd.socket", "Id") == "etcdlock-agent.socket"
    assert booted.run("pidof", "virtlockd", check=False).stdout == ""
    assert booted.run("systemctl", "is-failed", "etcdlock*", check=False).stdout.split().count("failed") == 0


def test_systemd_is_told_what_goes_on_and_watches_the_agent(booted: Machine) -> None:
    assert booted.property("etcdlock-agent.service", "Type") == "notify"
    assert "live" in booted.property("etcdlock-agent.service", "StatusText")
    assert int(booted.property("etcdlock-agent.service", "NRestarts")) == 0
    booted.until(
        lambda: booted.property("etcdlock-agent.service", "WatchdogUSec") not in ("1min", "infinity"),
        what="the agent's own watchdog time",
    )


def test_a_guest_survives_an_upgrade_a_restart_and_a_crash_of_the_agent(
    booted: Machine, guest: str, newer: Path
) -> None:
    before = lock(booted)
    assert before["pid"] == int(guest)
    booted.put(newer, "/newer.deb")
    for how in (
        ("dpkg", "-i", "/newer.deb"),
        ("systemctl", "restart", "etcdlock-agent.service"),
        ("systemctl", "kill", "--signal=KILL", "etcdlock-agent.service"),
    ):
        pid = main_pid(booted)
        booted.run(*how)
        booted.until(
            lambda pid=pid: main_pid(booted) not in (0, pid)  # type: ignore[misc]
            and booted.property("etcdlock-agent.service", "ActiveState") == "active",
            what=f"another agent after {how}",
        )
        still_runs(booted, guest, before)
    assert "99.0" in booted.run("etcdlock", "--version").stdout


def test_the_guard_has_a_unit_of_its_own(booted: Machine, guest: str) -> None:
    del guest
    units = booted.run("systemctl", "list-units", "--plain", "--no-legend", "etcdlock-guard@*").stdout.split()
    assert "active" in units, units


def test_what_a_program_may_not_read_itself_systemd_hands_to_it(booted: Machine) -> None:
    authority = Authority.create("etcdlock blue", now=datetime.now(UTC), days=10)
    booted.write("/root/ca.pem", authority.pem.decode())
    booted.run("chmod", "600", "/root/ca.pem")
    unit = ("-p", "DynamicUser=yes", "-p", "LoadCredential=etcd.ca:/root/ca.pem")
    told = ("-E", "ETCDLOCK_CA_FILE=$CREDENTIALS_DIRECTORY/etcd.ca", "-E", "ETCDLOCK_ENDPOINTS=127.0.0.1:1")
    command = ("systemd-run", "--wait", "--pipe", "--collect", "--quiet", *unit, *told, "etcdlock", "doctor", "--json")
    done = booted.run(*command, check=False)
    texts = [one["text"] for one in json.loads(done.stdout)["findings"]]
    assert any(text.startswith("ca_file /run/credentials/") and "expires in 9 day(s)" in text for text in texts), texts


def test_the_package_is_not_removed_under_guests_and_cleanly_afterwards(booted: Machine, guest: str) -> None:
    refused = booted.run("dpkg", "--remove", "etcdlock", check=False)
    assert (refused.returncode, "etcdlock-libvirt disable" in refused.stderr) == (1, True)
    assert booted.run("pidof", "qemu-system-x86_64").stdout.strip() == guest
    booted.run("virsh", "destroy", "vm1")
    booted.run("etcdlock-libvirt", "disable")
    booted.run("dpkg", "--purge", "etcdlock")
    assert booted.run("systemctl", "is-active", "virtlockd.socket").stdout.strip() == "active"
    left = [name for name in booted.written() if "etcdlock" in name and "test" not in name]
    assert [name for name in left if not name.startswith(("var/log", "var/lib/dpkg", "etcdlock.deb"))] == []
