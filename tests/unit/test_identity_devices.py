"""What a block device is called, from what the kernel shows of it. The trees here are made by hand in sysfs's own form;
tests/storage has the same from a kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcdlock.adapters.devices import Devices
from etcdlock.diskfacts import Device, Kind, Mount, Place
from etcdlock.errors import NotIdentified
from etcdlock.identity.devices import identify_device
from etcdlock.identity.files import identify_place
from etcdlock.identity.scsi import unit_name, wwid_name

HERE = "local/boot"
NAA = bytes.fromhex("0103 0008 5000c50015ea71aa")
NAA6 = bytes.fromhex("0103 0010 600508b400105e210000900000490000")
EUI = bytes.fromhex("0102 0008 0025385b71b00001")
T10 = bytes.fromhex("0201") + bytes([0, 24]) + b"ATA     ST1000  Z1234567"
VENDORS_OWN = bytes.fromhex("0200 0002 6132")
OF_A_PORT = bytes.fromhex("0113 0008 5000c50015ea71ff")
NOTHING = bytes.fromhex("0103 0008 0000000000000000")


def page(*designators: bytes) -> bytes:
    body = b"".join(designators)
    return b"\0\x83" + len(body).to_bytes(2, "big") + body


def name(device: Device) -> str:
    found = identify_device(device, of_place=lambda place: identify_place(place, here=HERE), here=HERE)
    return str(found.name)


@pytest.mark.parametrize(
    ("designators", "called"),
    [
        ((VENDORS_OWN, NAA), "naa.5000c50015ea71aa"),
        ((NAA, NAA6), "naa.600508b400105e210000900000490000"),
        ((NAA6, NAA), "naa.600508b400105e210000900000490000"),
        ((T10, EUI), "eui.0025385b71b00001"),
        ((T10, NAA, EUI), "naa.5000c50015ea71aa"),
        ((T10,), "t10.ATA_ST1000_Z1234567"),
        ((VENDORS_OWN,), ""),
        ((OF_A_PORT,), ""),
        ((NOTHING,), ""),
        ((), ""),
    ],
    ids=str,
)
def test_of_a_units_designators_every_host_takes_the_same(designators: tuple[bytes, ...], called: str) -> None:
    assert unit_name(page(*designators)) == called
    assert unit_name(page(*reversed(designators))) == called


def test_a_page_as_qemu_gives_it_for_two_paths_of_one_disk_has_one_name() -> None:
    """Captured: the paths differ in what only the vendor understands."""
    one = bytes.fromhex("008300120200000261320103 00085000c50015ea71aa")
    other = bytes.fromhex("008300120200000261310103 00085000c50015ea71aa")
    assert unit_name(one) == unit_name(other) == "naa.5000c50015ea71aa"


@given(st.binary(max_size=300))
def test_any_bytes_are_a_page(noise: bytes) -> None:
    unit_name(noise)
    unit_name(b"\0\x83" + noise)


@pytest.mark.parametrize(
    ("text", "called"),
    [
        ("naa.5000C50015EA71AA", "naa.5000c50015ea71aa"),
        ("35000c50015ea71aa", "naa.5000c50015ea71aa"),
        ("3600508b400105e210000900000490000", "naa.600508b400105e210000900000490000"),
        ("20025385b71b00001", "eui.0025385b71b00001"),
        ("eui.0000000000000000", ""),
        ("uuid.00000000-0000-0000-0000-000000000000", ""),
        ("t10.ATA     ST1000    Z1", "t10.ATA_ST1000_Z1"),
        ("nvme.1b36-6f6e65-51454d55-00000001", "nvme.1b36-6f6e65-51454d55-00000001"),
        ("0QEMU_QEMU_HARDDISK_drive-1", ""),
        ("SQEMU_QEMU_HARDDISK_1", ""),
        ("", ""),
    ],
)
def test_what_sysfs_and_multipath_call_a_unit_is_one_name(text: str, called: str) -> None:
    assert wwid_name(text) == called


PATH_A = Device(number="8:0", name="sda", page83=page(VENDORS_OWN, NAA))
PATH_B = Device(number="8:16", name="sdb", page83=page(NAA))
LVM = "LVM-OnyGREITujb1I2gdLxHZM45Kvqx7mu1IKCP6ZuSBMlifEi1ujCRWVo3G0ktAarMY"


def test_a_disk_is_called_alike_by_each_of_its_paths_and_by_multipath() -> None:
    both = Device(number="253:1", name="dm-1", dm_uuid="mpath-35000c50015ea71aa", lower=(PATH_A, PATH_B))
    pathless = replace(both, lower=())
    assert {name(PATH_A), name(PATH_B), name(both), name(pathless)} == {"wwn:naa.5000c50015ea71aa"}


def test_multipath_over_paths_to_different_disks_is_refused() -> None:
    stranger = replace(PATH_B, page83=page(NAA6))
    with pytest.raises(NotIdentified, match="lead to different units"):
        name(Device(number="253:1", name="dm-1", dm_uuid="mpath-35000c50015ea71aa", lower=(PATH_A, stranger)))


def test_a_logical_volume_is_called_by_its_uuids_whatever_it_lies_on() -> None:
    called = "lvm:OnyGRE-ITuj-b1I2-gdLx-HZM4-5Kvq-x7mu1I/KCP6Zu-SBMl-ifEi-1ujC-RWVo-3G0k-tAarMY"
    assert name(Device(number="253:0", name="dm-0", dm_uuid=LVM, lower=(PATH_A,))) == called
    assert name(Device(number="253:7", name="dm-7", dm_uuid=LVM)) == called
    assert name(Device(number="253:7", name="dm-7", dm_uuid=LVM + "-real")) == called + "-real"


@pytest.mark.parametrize("uuid", ["CRYPT-LUKS2-0123456789abcdef0123456789abcdef-secret", ""])
def test_what_lies_on_one_device_alone_is_called_like_that(uuid: str) -> None:
    assert name(Device(number="253:2", name="dm-2", dm_uuid=uuid, lower=(PATH_A,))) == name(PATH_A)
    part = Device(number="8:1", name="sda1", partition=1, whole=PATH_A)
    above = Device(number="253:2", name="dm-2", dm_uuid=uuid, lower=(part,))
    found = identify_device(above, of_place=lambda place: identify_place(place, here=HERE), here=HERE)
    assert (str(found.name), "the whole disk" in found.warning) == (name(part), True)


def test_a_partition_is_called_by_its_disk_and_number_whoever_has_made_the_device() -> None:
    kernels = Device(number="8:1", name="sda1", partition=1, whole=PATH_A)
    kpartxs = Device(number="253:3", name="dm-3", dm_uuid="part1-mpath-35000c50015ea71aa", lower=(PATH_B,))
    assert name(kernels) == name(kpartxs) == "wwn:naa.5000c50015ea71aa/part1"
    found = identify_device(kernels, of_place=lambda place: identify_place(place, here=HERE), here=HERE)
    assert "the whole disk" in found.warning


def test_an_md_array_has_one_name_in_both_of_its_spellings() -> None:
    lower = (PATH_A, replace(PATH_B, page83=page(NAA6)))
    one = Device(number="9:0", name="md0", md_uuid="3cc17753-fde3-cb8e-5517-00c5b558b14d", lower=lower)
    assert name(one) == name(replace(one, md_uuid="3cc17753:fde3cb8e:551700c5:b558b14d", lower=()))


def test_a_namespace_of_nvme_is_called_by_nguid_then_eui_then_what_the_kernel_makes_of_it() -> None:
    disk = Device(number="259:0", name="nvme0n1", wwid="uuid.1b4e28ba-2fa1-11d2-883f-0016d3cca427")
    assert name(disk) == "wwn:uuid.1b4e28ba-2fa1-11d2-883f-0016d3cca427"
    assert name(replace(disk, eui="00 25 38 5b 71 b0 00 01")) == "wwn:eui.0025385b71b00001"
    nguid = "00000000-0000-0000-0025-385b71b00001"
    assert name(replace(disk, nguid=nguid)) == "wwn:eui.00000000000000000025385b71b00001"


def test_a_mapped_rbd_image_is_called_as_in_a_domain_xml() -> None:
    mapped = Device(number="251:0", name="rbd0", rbd=("vms", "", "root", "-"))
    assert name(mapped) == "rbd:vms/root"
    assert name(replace(mapped, rbd=("vms", "blue", "root", "daily"))) == "rbd:vms/blue/root@daily"


def test_a_loop_device_is_called_like_its_file_whatever_part_it_shows() -> None:
    mount = Mount(kind="nfs4", source="nas:/vms", root="/", point="/mnt", device="0:40")
    file = Place(path="/mnt/a", real="/mnt/a", kind=Kind.FILE, mount=mount, inode=7)
    loop = Device(number="7:0", name="loop0", backing_file="/mnt/a", backing=file)
    assert name(loop) == "nfs:nas:2049/vms/a"
    part = Device(number="259:1", name="loop0p1", partition=1, whole=loop)
    assert name(part) == "nfs:nas:2049/vms/a/part1"
    with pytest.raises(NotIdentified, match="not to be seen here"):
        name(replace(loop, backing=None))


@pytest.mark.parametrize(
    "device",
    [
        Device(number="254:0", name="vda"),
        Device(number="8:0", name="sda", page83=page(VENDORS_OWN), wwid="", dm_name=""),
        Device(number="253:4", name="dm-4", dm_uuid="somebodys-own", lower=(PATH_A, PATH_B)),
        Device(number="253:4", name="dm-4"),
        Device(number="147:0", name="drbd0", lower=(PATH_A,)),  # the local half, which every host calls otherwise
        Device(number="252:0", name="bcache0", lower=(PATH_A,)),
    ],
    ids=lambda device: device.name,
)
def test_a_device_that_says_nothing_that_is_the_same_everywhere_is_not_identified(device: Device) -> None:
    with pytest.raises(NotIdentified):
        name(device)


def test_layers_without_end_are_refused() -> None:
    device = PATH_A
    for number in range(40):
        device = Device(number=f"253:{number}", name=f"dm-{number}", lower=(device,))
    with pytest.raises(NotIdentified, match="more layers"):
        name(device)


# --- sysfs ---------------------------------------------------------------------------------------------------------


def test_a_tree_in_the_form_of_sysfs_is_read(tmp_path: Path) -> None:
    """Made by hand: two paths, multipath over them, a partition that kpartx has made, and an md array."""
    disk(tmp_path, "8:0", "sda", {"device/vpd_pg83": page(VENDORS_OWN, NAA), "device/wwid": b"naa.5000c50015ea71aa\n"})
    disk(tmp_path, "8:16", "sdb", {"device/vpd_pg83": page(NAA)})
    disk(tmp_path, "8:1", "sda/sda1", {"partition": b"1\n"})
    mpath = {"dm/uuid": b"mpath-35000c50015ea71aa\n", "dm/name": b"mpatha\n"}
    disk(tmp_path, "253:0", "dm-0", mpath, slaves=("sda", "sdb"))
    kpartx = {"dm/uuid": b"part1-mpath-35000c50015ea71aa\n", "dm/name": b"mpatha-part1\n"}
    disk(tmp_path, "253:1", "dm-1", kpartx, slaves=("dm-0",))
    disk(tmp_path, "9:0", "md0", {"md/level": b"raid1\n"}, slaves=("sda", "sdb"))
    udev = tmp_path / "run/udev/data"
    udev.mkdir(parents=True)
    (udev / "b9:0").write_text("S:md/x\nE:MD_LEVEL=raid1\nE:MD_UUID=3cc17753:fde3cb8e:551700c5:b558b14d\n")
    assert {number: called(tmp_path, number) for number in ("8:0", "8:16", "253:0")} == dict.fromkeys(
        ("8:0", "8:16", "253:0"), "wwn:naa.5000c50015ea71aa"
    )
    assert called(tmp_path, "8:1") == called(tmp_path, "253:1") == "wwn:naa.5000c50015ea71aa/part1"
    assert called(tmp_path, "9:0") == "md:3cc17753fde3cb8e551700c5b558b14d"
    assert Devices(str(tmp_path)).read("8:99", file_at=lambda _: None) is None


def called(root: Path, number: str) -> str:
    device = Devices(str(root)).read(number, file_at=lambda _: None)
    assert device is not None
    return name(device)


def disk(root: Path, number: str, path: str, files: dict[str, bytes], *, slaves: tuple[str, ...] = ()) -> None:
    folder = root / "sys/devices/block" / path
    for file, content in {"dev": number.encode() + b"\n", **files}.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    for slave in slaves:
        (folder / "slaves").mkdir(exist_ok=True)
        (folder / "slaves" / slave).symlink_to(root / "sys/devices/block" / slave)
    links = root / "sys/dev/block"
    links.mkdir(parents=True, exist_ok=True)
    (links / number).symlink_to(f"../../devices/block/{path}")
