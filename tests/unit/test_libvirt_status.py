"""Guests as libvirt has written them down, and the rest of a host as the kernel shows it."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from etcdlock.adapters.alone import only_agent
from etcdlock.cli.host_facts import (
    Places,
    agent_of,
    gone_of,
    lock_manager_in,
    places,
    read_guests,
    socket_at,
)
from etcdlock.domainxml import DomainXml, resources_of
from etcdlock.errors import InvalidDomainXml
from etcdlock.guard import table
from etcdlock.guard.table import Name
from etcdlock.identity import DiskIdentity, Naming
from etcdlock.libvirt.status import parse_status
from etcdlock.model import Resource

DISK = "/var/lib/libvirt/images/disk-1"
STATUS = f"""<!--
WARNING: THIS IS AN AUTO-GENERATED FILE. CHANGES TO IT ARE LIKELY TO BE
OVERWRITTEN AND LOST.
-->

<domstatus state='running' reason='booted' pid='PID'>
  <taint flag='high-privileges'/>
  <monitor path='/var/lib/libvirt/qemu/domain-1-vm one/monitor.sock' type='unix'/>
  <vcpus><vcpu id='0' pid='77'/></vcpus>
  <qemuCaps><flag name='kvm'/></qemuCaps>
  <devices><device alias='virtio-disk0'/></devices>
  <blockjobs active='no'/>
  <domain type='kvm' id='1'>
    <name>vm one</name>
    <uuid>b27bc0f8-42ac-4b80-bd42-048ab1ef5c8c</uuid>
    <memory unit='KiB'>65536</memory>
    <os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type></os>
    <devices>
      <emulator>/usr/bin/qemu-system-x86_64</emulator>
      <disk type='block' device='disk'>
        <driver name='qemu' type='raw' cache='none' io='native'/>
        <source dev='{DISK}' index='1'>
          <privateData><nodenames><nodename type='storage' name='libvirt-1-storage'/></nodenames></privateData>
        </source>
        <backingStore/>
        <target dev='vda' bus='virtio'/>
        <alias name='virtio-disk0'/>
        <privateData><qom name='/machine/peripheral/virtio-disk0/virtio-backend'/></privateData>
      </disk>
    </devices>
  </domain>
</domstatus>
"""
"""Cut down from what libvirt 9.0.0 writes."""


def status(pid: object) -> str:
    return STATUS.replace("'PID'", f"'{pid}'")


def wanted(xml: DomainXml) -> tuple[Resource, ...]:
    return resources_of(xml, identify=Naming(DiskIdentity.PATH))


def own_name() -> Name:
    process = table.look_up(os.getpid())
    assert process is not None
    return process.name


# --- status files ---------------------------------------------------------------------------------------------------


def test_a_status_file_names_the_process_the_state_and_the_whole_domain() -> None:
    found = parse_status(status(73), source="x.xml")
    assert (found.pid, found.state) == (73, "running")
    assert (found.xml.domain.name, found.xml.domain.uuid) == ("vm one", UUID("b27bc0f8-42ac-4b80-bd42-048ab1ef5c8c"))
    assert [resource.path for resource in wanted(found.xml)] == [DISK]


@pytest.mark.parametrize("pid", ["", "0", "-1", "x", "4194305", "9" * 5000, "٣", "1 2"])
def test_a_status_file_that_names_no_process_is_refused(pid: str) -> None:
    with pytest.raises(InvalidDomainXml, match=r"x\.xml"):
        parse_status(status(pid), source="x.xml")


@pytest.mark.parametrize(
    "text",
    [
        "", "<domstatus pid='3'", "<domstatus pid='3'/>", "<domain/>", "<domstatus pid='3'><domain/></domstatus>",
        "<!DOCTYPE a [<!ENTITY b 'c'>]><domstatus pid='3'>&b;</domstatus>", b"\xff\xfe\x00", "x" * 5 * 2**20,
    ],
    ids=range(8),
)  # fmt: skip
def test_anything_else_is_refused_and_never_a_crash(text: bytes | str) -> None:
    with pytest.raises(InvalidDomainXml):
        parse_status(text, source="x.xml")


def test_guests_are_those_whose_process_lives_and_what_cannot_be_read_hides_nothing(tmp_path: Path) -> None:
    tmp_path.joinpath("lives.xml").write_text(status(os.getpid()), encoding="utf-8")
    tmp_path.joinpath("gone.xml").write_text(status(2**22), encoding="utf-8")
    tmp_path.joinpath("broken.xml").write_text("<", encoding="utf-8")
    tmp_path.joinpath("folder.xml").mkdir()
    tmp_path.joinpath("driver.pid").write_text("1", encoding="ascii")
    (guest,), unread = read_guests(tmp_path, wanted=wanted)
    assert (guest.process, guest.vcpus_run, guest.domain.name) == (own_name(), True, "vm one")
    assert [resource.path for resource in guest.resources] == [DISK]
    assert [text.split(":")[0].rpartition("/")[2] for text in unread] == ["broken.xml", "folder.xml"]
    assert read_guests(tmp_path / "none", wanted=wanted) == ((), ())


def test_a_paused_guest_is_seen_as_standing_still(tmp_path: Path) -> None:
    text = status(os.getpid()).replace("'running'", "'paused'")
    tmp_path.joinpath("a.xml").write_text(text, encoding="utf-8")
    (guest,), _ = read_guests(tmp_path, wanted=wanted)
    assert not guest.vcpus_run


@pytest.mark.parametrize(
    ("uid", "environment", "expected"),
    [
        (0, {"XDG_RUNTIME_DIR": "/run/user/0"}, Places(Path("/run/libvirt/qemu"), Path("/etc/libvirt/qemu.conf"))),
        (
            1000,
            {"XDG_RUNTIME_DIR": "/run/user/1000", "HOME": "/home/ann"},
            Places(Path("/run/user/1000/libvirt/qemu/run"), Path("/home/ann/.config/libvirt/qemu.conf")),
        ),
        (
            1000,
            {"HOME": "/home/ann", "XDG_CONFIG_HOME": "/etc/ann"},
            Places(Path("/home/ann/.cache/libvirt/qemu/run"), Path("/etc/ann/libvirt/qemu.conf")),
        ),
    ],
)
def test_libvirt_keeps_a_users_guests_apart_from_the_systems(
    uid: int, environment: dict[str, str], expected: Places
) -> None:
    assert places(uid=uid, environment=environment) == expected


# --- the rest of the host -------------------------------------------------------------------------------------------


def test_a_process_is_gone_when_its_number_is_another_ones() -> None:
    me = own_name()
    assert gone_of(frozenset({me, Name(me.pid, me.start + 1), Name(2**22, 1)})) == {
        Name(me.pid, me.start + 1),
        Name(2**22, 1),
    }


def test_the_agent_is_who_holds_the_lock_on_its_file(tmp_path: Path) -> None:
    assert agent_of(str(tmp_path)) == 0
    with only_agent(str(tmp_path)):
        assert agent_of(str(tmp_path)) == os.getpid()
    assert agent_of(str(tmp_path)) == 0  # the file is still there


def test_to_look_for_the_agent_takes_nothing_from_one_that_starts(tmp_path: Path) -> None:
    with only_agent(str(tmp_path)):
        pass
    with tmp_path.joinpath("agent.lock").open("rb") as file:
        agent_of(str(tmp_path))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "sock et"))
        yield listener


def test_who_listens_on_a_socket_is_told_without_connecting(listener: socket.socket, tmp_path: Path) -> None:
    path = str(tmp_path / "sock et")
    assert not socket_at(path).listened
    listener.listen()
    listener.setblocking(False)
    found = socket_at(path)
    comm = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
    assert (found.listened, found.listeners) == (True, (comm,))
    with pytest.raises(BlockingIOError):
        listener.accept()
    Path(path).unlink()
    assert not socket_at(path).listened  # nobody can reach it


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('lock_manager = "lockd"\n', "lockd"),
        ("  lock_manager='sanlock' # so\n", "sanlock"),
        ('#lock_manager = "lockd"\n', ""),
        ('lock_manager = "nop"\nlock_manager = "lockd"\n', "lockd"),
        ('xlock_manager = "lockd"\n', ""),
        ("", ""),
    ],
)
def test_the_lock_manager_is_read_as_libvirt_reads_it(tmp_path: Path, text: str, said: str) -> None:
    conf = tmp_path / "qemu.conf"
    conf.write_text(text, encoding="utf-8")
    assert lock_manager_in(conf) == (str(conf), said)
    assert lock_manager_in(tmp_path / "none") == (None, "")
