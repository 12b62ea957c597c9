"""Disks that this kernel does not have, named on a kernel that has them: LVM, multipath, md, NVMe and NFS.

Everything in the machine is real but the disks, which QEMU makes up: two of them are two paths to one. What stands
for an encrypted one has its UUID and does not encrypt.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import etcdlock
from tests.storage import vm

ROOT = Path(etcdlock.__file__).parents[1]
ONE, OTHER = "5000c50015ea71aa", "5000c50015ea71bb"
MIB = 2**20

pytestmark = pytest.mark.timeout(vm.BOOT_SECONDS + 60)

SCRIPT = f"""
modprobe -a dm-mod dm-multipath dm-round-robin raid1 nfsd nfs nfsv4 || exit
wwn() {{ for disk in /sys/block/sd*; do grep -q $1 $disk/device/wwid && basename $disk; done; }}
set -- $(wwn {ONE}); one=$1 again=$2; other=$(wwn {OTHER})
size=$(blockdev --getsz /dev/$one)
create() {{ dmsetup create --noudevsync "$@"; dmsetup mknodes; }}

create mpatha --uuid mpath-3{ONE} \\
    --table "0 $size multipath 0 0 1 1 round-robin 0 2 1 $(cat /sys/block/$one/dev) 1 $(cat /sys/block/$again/dev) 1"
create mpatha-part1 --uuid part1-mpath-3{ONE} --table "0 2048 linear /dev/mapper/mpatha 2048"
addpart /dev/$one 1 2048 2048
ln -s /dev/$again /run/by-id

without="activation {{ udev_sync=0 udev_rules=0 }} backup {{ backup=0 archive=0 }}"
only="devices {{ use_devicesfile=0 filter=[ \\"a|/dev/$other|\\", \\"r|.*|\\" ] }}"
by_lvm() {{ lvm "$@" --config "$without $only" 2>/dev/null; }}
by_lvm pvcreate -q /dev/$other; by_lvm vgcreate -q vg0 /dev/$other
by_lvm lvcreate -q -y -Wn -Zn -L 8M -n one vg0
by_lvm lvrename -q vg0 one two
echo "lv $(by_lvm lvs --noheadings -o vg_uuid,lv_uuid)"
create secret --uuid CRYPT-PLAIN-secret --table "0 2048 linear /dev/mapper/vg0-two 0"

mdadm --create /dev/md0 --quiet --run --level=1 --raid-devices=2 --metadata=1.2 /dev/vda /dev/vdb
echo "md $(mdadm --detail --export /dev/md0 | grep MD_UUID)"

mkdir -p /srv/share /var/lib/nfs/v4recovery /mnt/a /mnt/b /mnt/c
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
mkfs.ext4 -q /dev/vdc; mount /dev/vdc /srv/share
mkdir /srv/share/sub; touch /srv/share/sub/a.img /srv/share/b.img; ln /srv/share/b.img /srv/share/sub/c.img
ln -s sub/a.img /srv/share/link
mount -t nfsd nfsd /proc/fs/nfsd
ip addr add 10.9.9.9/32 dev lo
exportfs -o rw,no_root_squash,insecure,no_subtree_check '*:/srv/share' 2>/dev/null
rpc.nfsd --no-nfs-version 3 --no-udp 2 2>/dev/null; rpc.mountd --no-nfs-version 3
mount -t nfs4 -o vers=4.2 10.9.9.9:/srv/share /mnt/a
mount -t nfs4 -o vers=4.2 10.9.9.9:/srv/share/sub /mnt/b
mount --bind /mnt/a/sub /mnt/c

echo "identified"
cd {ROOT}; {sys.executable} -m tests.storage.identified \\
    /dev/$one /dev/$again /dev/mapper/mpatha /run/by-id /dev/mapper/mpatha-part1 /dev/${{one}}1 \\
    /dev/$other /dev/mapper/vg0-two /dev/vg0/two /dev/mapper/secret /dev/md0 /dev/nvme0n1 /dev/vda \\
    /mnt/a/sub/a.img /mnt/b/a.img /mnt/c/a.img /mnt/a/link /mnt/a/b.img /mnt/b/c.img /mnt/a/new.img /srv/share/sub/a.img
"""
CALLED = (
    "path one", "path two", "multipath", "link to a path", "partition by kpartx", "partition by the kernel",
    "other", "volume", "volume's link", "encrypted", "md", "nvme", "virtio",
    "file", "file by a mount of its folder", "file by a bind mount", "file by a link", "hard link", "its other name",
    "file to be", "file on the server",
)  # fmt: skip


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, dict[str, Any]]]:
    """What its programs say, and what its disks are called."""
    vm.needed()
    folder = tmp_path_factory.mktemp("machine")
    told, _, identified = vm.run(SCRIPT, folder, devices=devices(folder)).partition("identified\n")
    assert identified, told
    disks = [json.loads(line) for line in identified.splitlines() if line.startswith("{")]
    assert len(disks) == len(CALLED), identified
    return told, dict(zip(CALLED, disks, strict=True))


def devices(folder: Path) -> list[str]:
    for name in ("one", "other", "nvme", "v0", "v1", "v2"):
        (folder / name).touch()
        os.truncate(folder / name, 32 * MIB)
    drive = f"if=none,format=raw,file.locking=off,file={folder}"
    scsi = ["-device", "virtio-scsi-pci"]
    for identity, file, wwn in (("a", "one", ONE), ("b", "one", ONE), ("c", "other", OTHER)):
        scsi += ["-drive", f"{drive}/{file},id={identity}"]
        scsi += ["-device", f"scsi-hd,drive={identity},wwn=0x{wwn},share-rw=on"]
    nvme = ["-drive", f"{drive}/nvme,id=n", "-device", "nvme,serial=one,id=nvme"]
    namespace = ["-device", "nvme-ns,drive=n,bus=nvme,nsid=1"]
    virtio = [word for name in ("v0", "v1", "v2") for word in ("-drive", f"if=virtio,format=raw,file={folder}/{name}")]
    return [*scsi, *nvme, *namespace, *virtio]


Machine = tuple[str, dict[str, dict[str, Any]]]


def name(machine: Machine, called: str) -> str:
    disk = machine[1][called]
    assert disk["name"] is not None, disk["error"]
    return str(disk["name"])


@pytest.mark.parametrize("called", ["path one", "path two", "multipath", "link to a path"])
def test_every_way_to_a_unit_is_one_name(machine: Machine, called: str) -> None:
    assert name(machine, called) == f"wwn:naa.{ONE}"


def test_another_unit_has_another_name(machine: Machine) -> None:
    assert name(machine, "other") == f"wwn:naa.{OTHER}"


@pytest.mark.parametrize("called", ["partition by kpartx", "partition by the kernel"])
def test_a_partition_is_one_name_whoever_has_made_it(machine: Machine, called: str) -> None:
    assert name(machine, called) == f"wwn:naa.{ONE}/part1"
    assert "whole disk" in machine[1][called]["warning"]


@pytest.mark.parametrize("called", ["volume", "volume's link", "encrypted"])
def test_a_logical_volume_is_called_as_lvm_calls_it_though_it_was_renamed(machine: Machine, called: str) -> None:
    printed = re.search(r"^lv +(\S+) +(\S+)$", machine[0], re.MULTILINE)
    assert printed is not None
    assert name(machine, called) == f"lvm:{printed[1]}/{printed[2]}"


def test_an_array_is_called_as_mdadm_calls_it(machine: Machine) -> None:
    printed = re.search(r"MD_UUID=(\S+)", machine[0])
    assert printed is not None
    assert name(machine, "md") == f"md:{printed[1].replace(':', '')}"


def test_an_nvme_namespace_is_called_by_controller_serial_and_number_where_the_kernel_knows_no_better(
    machine: Machine,
) -> None:
    """Of QEMU's own the kernel takes no other word: it believes their EUIs to be made up."""
    assert name(machine, "nvme").startswith(f"wwn:nvme.1b36-{b'one'.hex()}-")


def test_a_virtio_disk_says_nothing_of_itself(machine: Machine) -> None:
    disk = machine[1]["virtio"]
    assert disk["name"] is None
    assert "no WWN, NGUID or UUID" in disk["error"]


@pytest.mark.parametrize(
    "called", ["file", "file by a mount of its folder", "file by a bind mount", "file by a link"]
)
def test_a_file_on_nfs_is_one_name_wherever_it_is_mounted(machine: Machine, called: str) -> None:
    assert name(machine, called) == "nfs:10.9.9.9:2049/srv/share/sub/a.img"


def test_all_names_of_a_file_on_nfs_are_one(machine: Machine) -> None:
    assert name(machine, "hard link") == name(machine, "its other name")
    assert "#inode=" in name(machine, "hard link")


def test_a_file_to_be_on_nfs_is_called_like_what_it_will_be(machine: Machine) -> None:
    assert name(machine, "file to be") == "nfs:10.9.9.9:2049/srv/share/new.img"


def test_a_file_of_the_servers_own_file_system_is_its_own(machine: Machine) -> None:
    assert name(machine, "file on the server").startswith("local/")
