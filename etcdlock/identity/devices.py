"""What a block device is called: by what is written on it or in it, never by where this host has put it.

The first that knows wins: LVM's UUIDs, the unit's own name (SCSI, NVMe), the UUID of an md array, the image that it
maps (rbd), the file behind it (loop). What the device mapper lays on one other device alone, as an encrypted one, is
called like that one. A partition is called after its disk, and its number.

Where a name must be too wide or too narrow, it is too wide: a loop device is called like the whole of its file,
whatever part of it it shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from etcdlock.diskfacts import Device, Place
from etcdlock.errors import NotIdentified
from etcdlock.identity.network import NetworkSource, identify_network
from etcdlock.identity.scsi import unit_name, wwid_name
from etcdlock.identity.words import Identified, ResourceName, escaped

LVM_LOCKSPACE: Final = "lvm"
UNIT_LOCKSPACE: Final = "wwn"
MD_LOCKSPACE: Final = "md"
RBD_LOCKSPACE: Final = "rbd"

_LVM_UUID: Final = re.compile(r"LVM-([0-9A-Za-z]{32})([0-9A-Za-z]{32})(-[a-z0-9_]+)?")
_LVM_GROUPS: Final = (6, 4, 4, 4, 4, 4, 6)
_PARTITION_UUID: Final = re.compile(r"part(\d+)-.+")
_MAPPED: Final = "dm-"  # drbd has slaves in sysfs, too: its local half, which is another disk on every host
_OF_ONE_HOST: Final = re.compile(r"(zram|ram|sr|fd)\d+")
_DEEPEST: Final = 16

OfPlace = Callable[[Place], Identified]


def identify_device(device: Device, /, *, of_place: OfPlace, here: str, depth: int = 0) -> Identified:
    """Its name. `of_place` names the file behind a loop device; `here` is the lockspace of what only this host has.

    Raises `NotIdentified`.
    """
    if depth > _DEEPEST:
        raise NotIdentified(f"{_shown(device)} lies on more layers than can be looked through")

    def below(lower: Device) -> Identified:
        return identify_device(lower, of_place=of_place, here=here, depth=depth + 1)

    if device.partition and device.whole is not None:
        return _partition(below(device.whole), device.partition, device)
    if device.dm_uuid:
        return _mapped(device, below)
    if device.name.startswith(_MAPPED):
        return _stacked(device, below)
    if device.backing_file:
        return _loop(device, of_place)
    return _own(device, here=here)


def _own(device: Device, *, here: str) -> Identified:
    unit = unit_name(device.page83) or _nvme_name(device) or wwid_name(device.wwid)
    if unit:
        told = f"the unit calls itself {escaped(unit)}"
        return Identified(ResourceName(UNIT_LOCKSPACE, unit), "unit", (_shown(device), told))
    if device.md_uuid:
        uuid = re.sub(r"[^0-9a-f]", "", device.md_uuid.lower())
        return Identified(ResourceName(MD_LOCKSPACE, uuid), "md", (_shown(device), f"array {device.md_uuid}"))
    if device.rbd is not None:
        pool, namespace, image, snapshot = device.rbd
        text = "/".join(part for part in (pool, namespace, image) if part)
        name = identify_network(NetworkSource(RBD_LOCKSPACE, text, snapshot="" if snapshot == "-" else snapshot))
        return Identified(name, "rbd", (_shown(device), f"maps the image {escaped(text)}"))
    if _OF_ONE_HOST.fullmatch(device.name):
        return Identified(ResourceName(here, device.number), "local", (_shown(device), "a device of this host alone"))
    raise NotIdentified(
        f"{_shown(device)} says of itself nothing that would be the same on every host: no WWN, NGUID or UUID",
        hint="give the disk a WWN where it is exported; or put an LVM volume on it; or say that its path is the same"
        ' disk on every host: unidentified_disks = "path"',
    )


def _nvme_name(device: Device) -> str:
    digits = re.sub(r"[^0-9a-f]", "", device.nguid.lower()) or re.sub(r"[^0-9a-f]", "", device.eui.lower())
    return f"eui.{digits}" if digits.strip("0") else ""


def _mapped(device: Device, below: Callable[[Device], Identified]) -> Identified:
    """Of the device mapper: LVM's name says which volume, multipath's which unit; others mean what is below."""
    lvm = _LVM_UUID.fullmatch(device.dm_uuid)
    if lvm is not None:
        group, volume, layer = _dashed(lvm[1]), _dashed(lvm[2]), lvm[3] or ""
        told = (_shown(device), f"volume {volume} of the volume group {group}")
        return Identified(ResourceName(LVM_LOCKSPACE, f"{group}/{volume}{layer}"), "lvm", told)
    if device.dm_uuid.startswith("mpath-"):
        return _multipath(device, below)
    part = _PARTITION_UUID.fullmatch(device.dm_uuid)
    if part is not None and len(device.lower) == 1:
        return _partition(below(device.lower[0]), int(part[1]), device)
    return _stacked(device, below)


def _dashed(uuid: str) -> str:
    """As `lvs -o uuid` prints it."""
    parts, at = [], 0
    for length in _LVM_GROUPS:
        parts.append(uuid[at : at + length])
        at += length
    return "-".join(parts)


def _multipath(device: Device, below: Callable[[Device], Identified]) -> Identified:
    """By what its paths say of themselves; only where none is left by the name that multipath has given it."""
    found: list[Identified] = []
    for path in device.lower:
        try:
            found.append(below(path))
        except NotIdentified:
            continue
    names = {one.name for one in found}
    if len(names) > 1:
        said = ", ".join(sorted(map(str, names)))
        raise NotIdentified(f"the paths of {_shown(device)} lead to different units: {said}")
    paths = ", ".join(path.name for path in device.lower) or "none"
    if found:
        return Identified(found[0].name, "multipath", (f"{_shown(device)}, paths: {paths}", *found[0].evidence))
    unit = wwid_name(device.dm_uuid.removeprefix("mpath-"))
    if not unit:
        raise NotIdentified(f"{_shown(device)} has no path that says what it is, and its WWID names no unit")
    return Identified(ResourceName(UNIT_LOCKSPACE, unit), "multipath", (f"{_shown(device)}, paths: {paths}",))


def _stacked(device: Device, below: Callable[[Device], Identified]) -> Identified:
    if len(device.lower) != 1:
        devices = ", ".join(lower.name for lower in device.lower) or "none that can be seen"
        raise NotIdentified(f"{_shown(device)} is made of several devices ({devices}) and has no UUID of its own")
    lower = below(device.lower[0])
    told = (f"{_shown(device)}, which lies on one device", *lower.evidence)
    return Identified(lower.name, lower.rule, told, lower.warning)


def _partition(disk: Identified, number: int, device: Device) -> Identified:
    name = ResourceName(disk.name.lockspace, f"{disk.name.name}/part{number}")
    warning = "partitions that overlap it are not kept from it; the whole disk is"
    return Identified(name, disk.rule, (f"{_shown(device)}, partition {number}", *disk.evidence), warning)


def _loop(device: Device, of_place: OfPlace) -> Identified:
    told = f"{_shown(device)}, a loop device over {escaped(device.backing_file)}"
    if device.backing is None:
        raise NotIdentified(
            f"{told}, is not identified: that file is not to be seen here under this name",
            hint="make the loop device over a path that is there, in the mount namespace of whoever locks it",
        )
    file = of_place(device.backing)
    return Identified(file.name, file.rule, (told, *file.evidence), file.warning)


def _shown(device: Device) -> str:
    mapped = f" {escaped(device.dm_name)}" if device.dm_name else ""
    return f"{device.name}{mapped} ({device.number})"
