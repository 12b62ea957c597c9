"""Which guests come by a migration: libvirt's word, not only QEMU's arguments."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from uuid import UUID

import pytest

from etcdlock.adapters.host_processes import HostProcesses, has_open
from etcdlock.cli.arrivals import Arrivals
from etcdlock.model import DomainId, Mode, Resource

VM = DomainId(UUID(int=7), "vm1")
DISK = Resource("path", "/san/vm1", Mode.EXCLUSIVE, "/san/vm1")


def write_status(folder: Path, job: str, *, pid: int, uuid: UUID = VM.uuid) -> None:
    """As libvirt 9 writes it."""
    folder.joinpath(f"{VM.name}.xml").write_text(
        f"<domstatus state='paused' reason='migration' pid='{pid}'>{job}"
        f"<domain type='kvm'><name>{VM.name}</name><uuid>{uuid}</uuid></domain></domstatus>",
        encoding="utf-8",
    )


MIGRATES = "<job type='none' async='migration in' phase='finish3' flags='0x201' asyncStarted='1795237750857'/>"


def test_a_guest_that_libvirt_takes_in_from_another_host_arrives(tmp_path: Path) -> None:
    write_status(tmp_path, MIGRATES, pid=73)
    assert Arrivals(tmp_path).arrives(73, VM)


@pytest.mark.parametrize("job", ["", "<job type='none' async='start' flags='0x0'/>", "<job type='migration in'/>",
                                 "<job type='none' async='migration out' phase='perform3'/>"])  # fmt: skip
def test_a_guest_that_is_restored_or_started_does_not_arrive(tmp_path: Path, job: str) -> None:
    write_status(tmp_path, job, pid=73)
    assert not Arrivals(tmp_path).arrives(73, VM)


def test_another_process_or_another_domain_of_the_same_name_does_not_arrive(tmp_path: Path) -> None:
    write_status(tmp_path, MIGRATES, pid=73)
    assert not Arrivals(tmp_path).arrives(74, VM)
    write_status(tmp_path, MIGRATES, pid=73, uuid=UUID(int=8))
    assert not Arrivals(tmp_path).arrives(73, VM)


@pytest.mark.parametrize("text", ["", "<domstatus", "<domstatus pid='73'/>", "\x00"])
def test_where_libvirts_word_cannot_be_read_nothing_arrives(tmp_path: Path, text: str) -> None:
    assert not Arrivals(tmp_path).arrives(73, VM)
    tmp_path.joinpath(f"{VM.name}.xml").write_text(text, encoding="utf-8")
    assert not Arrivals(tmp_path).arrives(73, VM)
    assert not Arrivals(tmp_path).arrives(73, DomainId(VM.uuid, "a\0b"))


@pytest.mark.parametrize(("arguments", "told", "arrives"), [
    (("-incoming", "defer"), True, True), (("-incoming", "defer"), False, False), (("-S",), True, False),
])  # fmt: skip
def test_both_qemu_and_libvirt_must_say_so(arguments: tuple[str, ...], told: bool, arrives: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *arguments]) as process:
        try:
            processes = HostProcesses(arrives=lambda _pid, _domain: told)
            guest = processes.attach(process.pid)
            assert asyncio.run(processes.awaits_migration(guest, VM)) is arrives
        finally:
            process.kill()


def test_a_file_server_that_does_not_answer_makes_nobody_wait_and_the_file_counts_as_open() -> None:
    answers = threading.Event()
    processes = HostProcesses(look=lambda _pid, _resource: not answers.wait(30))

    async def ask() -> tuple[bool, float]:
        guest, begun = processes.attach(os.getpid()), time.monotonic()
        asking = [asyncio.ensure_future(processes.has_open(guest, DISK)) for _ in range(50)]
        await asyncio.sleep(0)  # the loop goes on meanwhile
        found = await asyncio.gather(*asking)
        return all(found), time.monotonic() - begun

    try:
        is_open, seconds = asyncio.run(ask())
        assert is_open
        assert seconds < 10
    finally:
        answers.set()


REOPENS = """
import os, sys
held = os.open(sys.argv[1], os.O_RDWR)
print("open", flush=True)
while True:
    flags = os.O_RDONLY if os.get_inheritable(held) else os.O_RDWR
    other = os.open(sys.argv[1], flags)
    os.set_inheritable(other, flags == os.O_RDWR)
    os.close(held)
    held = other
"""


def test_a_file_that_is_opened_anew_again_and_again_never_looks_closed(tmp_path: Path) -> None:
    image, other = tmp_path / "image", tmp_path / "other"
    image.touch()
    other.touch()
    with subprocess.Popen([sys.executable, "-c", REOPENS, str(image)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            disk = Resource("path", str(image), Mode.EXCLUSIVE, str(image))
            assert all(has_open(process.pid, disk) for _ in range(3000))
        finally:
            process.kill()


def test_a_file_that_is_closed_looks_closed(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    disk = Resource("path", str(image), Mode.EXCLUSIVE, str(image))
    program = "import sys; file = open(sys.argv[1]); print(); input(); file.close(); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program, str(image)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        assert has_open(process.pid, disk)
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        assert not has_open(process.pid, disk)
        process.kill()


LOOKS = """
import sys
from etcdlock.adapters.host_processes import has_open
from etcdlock.model import Mode, Resource
print(has_open(int(sys.argv[1]), Resource("path", sys.argv[2], Mode.EXCLUSIVE, sys.argv[2])))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have some of root's rights")
@pytest.mark.parametrize(
    ("rights", "looks_open"),
    [
        ("-all", True),
        ("-all,+sys_ptrace", True),
        ("-all,+dac_read_search", True),
        ("-all,+sys_ptrace,+dac_read_search", False),
    ],
)
def test_a_disk_of_which_the_kernel_does_not_tell_who_has_it_open_counts_as_open(
    tmp_path: Path, rights: str, looks_open: bool
) -> None:
    closed = tmp_path / "image"
    closed.touch()
    with subprocess.Popen(["sleep", "60"], user=65534, group=65534, extra_groups=[]) as guest:
        try:
            look = [sys.executable, "-c", LOOKS, str(guest.pid), str(closed)]
            command = ["setpriv", f"--bounding-set={rights}", "--inh-caps=-all", *look]
            told = subprocess.run(command, capture_output=True, text=True, check=True)
        finally:
            guest.kill()
    assert told.stdout.strip() == str(looks_open), told.stderr
