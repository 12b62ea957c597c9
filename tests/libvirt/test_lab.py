"""The lab itself: what it claims about hosts, network, disks and endings is so."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.libvirt.etcd import etcd_of
from tests.libvirt.host import REPOSITORY
from tests.libvirt.lab import Lab, SharedDisk
from tests.libvirt.libvirt_host import LibvirtHost
from tests.libvirt.process_table import is_alive
from tests.libvirt.waiting import wait_until

A_LAB_THAT_WAITS = """
import sys
from pathlib import Path
from tests.libvirt.lab import Lab
with Lab(Path(sys.argv[1]), host_names="ab") as lab, lab.disk() as disk:
    sleeper = lab.hosts[0].start_program(["sleep", "infinity"])
    print(*(host.machine.pid for host in lab.hosts), sleeper.pid, flush=True)
    sys.stdin.read()
"""


KNOCK = """
import errno, socket, sys
with socket.socket() as knocking:
    knocking.settimeout(1)
    sys.exit(knocking.connect_ex((sys.argv[1], 9)) != errno.ECONNREFUSED)
"""
"""Nobody listens there: a host that is reached says so."""


def reaches(one: LibvirtHost, address: str) -> bool:
    return one.run([sys.executable, "-c", KNOCK, address]).returncode == 0


def programs_on(host: LibvirtHost) -> list[str]:
    return host.run(["sh", "-c", "cat /proc/[0-9]*/comm"]).stdout.split()


def test_hosts_have_names_boots_and_processes_of_their_own(a: LibvirtHost, b: LibvirtHost) -> None:
    told = [host.run(["sh", "-c", "hostname; cat /proc/sys/kernel/random/boot_id /etc/machine-id"]) for host in (a, b)]
    (name_a, *ids_a), (name_b, *ids_b) = (each.stdout.split() for each in told)
    assert (name_a, name_b) == ("a", "b")
    assert not set(ids_a) & set(ids_b)
    sleeper = a.start_program(["sleep", "infinity"])
    assert "sleep" in programs_on(a)
    assert "sleep" not in programs_on(b)
    assert sleeper.kill() == -signal.SIGKILL


def test_a_program_that_is_still_alive_when_its_time_is_up_is_ended(a: LibvirtHost) -> None:
    try:
        a.run(["sleep", "infinity"], within_seconds=0.2)
    except subprocess.TimeoutExpired:
        wait_until(lambda: "sleep" not in programs_on(a), what="sleep is gone")
    else:
        raise AssertionError("it ended by itself")


def test_what_one_host_writes_to_a_shared_disk_another_reads(
    a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    write = ["dd", f"of={disk.path}", "bs=4096", "conv=notrunc,sync", "oflag=direct", "status=none"]
    assert a.run(write, stdin="written by a").returncode == 0
    read = b.run(["dd", f"if={disk.path}", "bs=4096", "count=1", "iflag=direct", "status=none"])
    assert read.stdout.rstrip("\0") == "written by a"


def test_a_lock_on_a_shared_disk_is_unknown_to_the_other_host_and_one_in_the_shared_folder_is_known(
    a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    shared = "/var/lib/libvirt/lockd/files/probe"
    for path, refused in ((disk.path, 0), (shared, 1)):
        holder = a.start_program(["flock", "--no-fork", path, "sh", "-c", "touch /run/held; exec sleep infinity"])
        wait_until(a.machine.path("/run/held").exists, what="a holds the lock")
        assert b.run(["flock", "--nonblock", path, "true"]).returncode == refused
        holder.kill()
        a.machine.path("/run/held").unlink()


def test_a_host_unplugged_reaches_nobody_until_it_is_plugged_in_again(
    clean_lab: Lab, a: LibvirtHost, b: LibvirtHost
) -> None:
    assert reaches(a, b.address)
    clean_lab.unplug(b)
    assert not reaches(a, b.address)
    clean_lab.plug_in(b)
    wait_until(lambda: reaches(a, b.address), what="b answers again")


def test_a_host_switched_off_and_on_has_another_boot_its_files_and_its_disks(
    clean_lab: Lab, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    running = a.start_program(["sleep", "infinity"])
    pid, boot = running.pid, a.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout
    a.run(["touch", "/var/lib/libvirt/kept", "/run/not-kept"])
    clean_lab.power_off(a)
    assert not a.is_on
    assert not is_alive(pid)
    assert not reaches(b, a.address)
    clean_lab.power_on(a)
    wait_until(lambda: reaches(b, a.address), what="a answers again")
    assert a.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout not in ("", boot)
    assert a.run(["test", "-e", "/var/lib/libvirt/kept", "-a", "!", "-e", "/run/not-kept"]).returncode == 0
    assert a.run(["test", "-b", disk.path]).returncode == 0


def test_hosts_reach_an_etcd_of_ours(clean_lab: Lab, a: LibvirtHost) -> None:
    with etcd_of(clean_lab) as (_, endpoint):
        connection = http.client.HTTPConnection(endpoint, timeout=5)
        connection.request("GET", "/version")
        here = connection.getresponse().read().decode()
        fetch = f"import urllib.request as r; print(r.urlopen('http://{endpoint}/version').read().decode(), end='')"
        assert a.run([sys.executable, "-c", fetch]).stdout == here != ""
        connection.close()


def test_nothing_of_a_lab_is_left_when_its_maker_is_killed(clean_lab: Lab, tmp_path: Path) -> None:
    cables = set(os.listdir("/sys/class/net"))  # noqa: PTH208
    maker = subprocess.Popen(
        [sys.executable, "-c", A_LAB_THAT_WAITS, str(tmp_path)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with maker:
        assert maker.stdout is not None
        pids = [int(word) for word in maker.stdout.readline().split()]
        assert len(pids) == 3
        assert all(is_alive(pid) for pid in pids)
        assert len(loops_over(tmp_path)) == 2
        maker.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in pids), what="all processes are gone")
    wait_until(lambda: not loops_over(tmp_path), what="the loop devices are gone")
    wait_until(lambda: set(os.listdir("/sys/class/net")) <= cables, what="the cable is gone")  # noqa: PTH208


def loops_over(folder: Path) -> list[str]:
    files = ["losetup", "--list", "--noheadings", "--output", "BACK-FILE"]
    listed = subprocess.run(files, capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if line.startswith(str(folder))]
