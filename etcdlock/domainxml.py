"""From libvirt's domain XML to the resources that the domain needs.

Reads what `virsh dumpxml` prints, of a running guest or of a definition. Every `<disk>` and `<lease>` is either named
or the whole XML is refused: no disk is left out in silence. Storage that the XML hands to the guest by other ways than
a `<disk>` gives a warning.

Guarantees: hostile input (entities, DTDs, oversize, any bytes at all) raises `InvalidDomainXml` and nothing else, and
nothing outside the given text is opened. Backing chains are looked at only if asked for; what the XML does not
say of them, the images do (`chains_of`, `with_chains`). Not looked at: NVRAM and pflash files, TPM state, shared file
systems.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from uuid import UUID

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from etcdlock.diskxml import USE_A_LEASE, Below, SourceKind, Storage, below, only, opened
from etcdlock.errors import InvalidDomainXml, InvalidInput
from etcdlock.identity import (
    Chain,
    Link,
    Named,
    ResourceName,
    distinct,
    escaped,
    identify_lease,
    layer_mode,
)
from etcdlock.model import DomainId, Mode, Resource

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_XML_LENGTH: Final = 4 * 1024 * 1024

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")
_NAME_MAX_BYTES: Final = 255
_ASK_LIBVIRT: Final = "give the output of `virsh dumpxml DOMAIN`"

_QEMU: Final = "{http://libvirt.org/schemas/domain/qemu/1.0}"
_QEMU_DISK_OPTION: Final = re.compile(r"--?(drive|blockdev|hd[a-d]|sd|mtdblock|pflash|cdrom|fd[ab]|readconfig)")


class Device(StrEnum):
    """As what the guest sees the disk."""

    DISK = "disk"
    CDROM = "cdrom"
    FLOPPY = "floppy"
    LUN = "lun"


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One storage of one `<disk>`. `part` is "" for its source, else which other: "mirror", "data file", "backing 1".

    `rest` is set on the last one that the XML tells of where its image tells what lies below it.
    """

    storage: Storage
    mode: Mode
    target: str
    device: Device
    part: str = ""
    is_backing: bool = False
    rest: Link | None = None

    def __str__(self) -> str:
        return f"disk {escaped(self.target)}" + (f" ({self.part})" if self.part else "")


@dataclass(frozen=True, slots=True)
class LeaseSpec:
    """An explicit `<lease>`. The offset says where sanlock would keep it and is no part of its name."""

    lockspace: str
    key: str
    target: str
    offset: int
    name: ResourceName

    def __str__(self) -> str:
        return f"lease '{escaped(self.key)}'"


@dataclass(frozen=True, slots=True)
class DomainXml:
    """What a domain XML says about locks; `source` is where the text came from, for messages."""

    source: str
    domain: DomainId
    disks: tuple[DiskSpec, ...]
    leases: tuple[LeaseSpec, ...]
    warnings: tuple[str, ...]


def parse_domain(xml: bytes | str, /, *, source: str, chains: bool = False) -> DomainXml:
    """Read a domain XML, with its backing chains if asked; `source` names it in messages. Raises `InvalidDomainXml`."""
    with _inside(escaped(source)):
        root = _root(xml)
        disks = tuple(spec for element in root.findall("devices/disk") for spec in _disk(element, chains=chains))
        return DomainXml(
            source=source,
            domain=DomainId(uuid=_uuid(root), name=_name(root)),
            disks=disks,
            leases=tuple(_lease(element) for element in root.findall("devices/lease")),
            warnings=tuple(_warnings(root, disks=disks)),
        )


def chains_of(domain: DomainXml, /) -> tuple[Link, ...]:
    """The images that have to be asked what lies below them."""
    return tuple(spec.rest for spec in domain.disks if spec.rest is not None)


def with_chains(domain: DomainXml, /, *, chain: Callable[[Link], Chain]) -> DomainXml:
    """The same with all that the images have said. Its warnings are only those."""
    disks, warnings = list[DiskSpec](), list[str]()
    for spec in domain.disks:
        disks.append(replace(spec, rest=None))
        if spec.rest is None:
            continue
        found, before = chain(spec.rest), "mirror " if spec.part.startswith("mirror") else ""
        for depth, path in enumerate(found.layers, spec.rest.depth + 1):
            storage = Storage(SourceKind.FILE, path, None)
            part = f"{before}backing {depth}"
            disks.append(DiskSpec(storage, layer_mode(spec.mode), spec.target, spec.device, part, is_backing=True))
        warnings += (f"{spec}: {warning}" for warning in found.warnings)
    return replace(domain, disks=tuple(disks), warnings=tuple(warnings))


def paths_of(domain: DomainXml, /) -> tuple[str, ...]:
    """The paths that must be named by the cluster's rule."""
    return tuple(spec.storage.text for spec in domain.disks if spec.storage.name is None)


def named_of(domain: DomainXml, /, *, identify: Callable[[str], ResourceName]) -> tuple[Named, ...]:
    """Every disk and lease as a resource, repetitions included; `identify` names a path by the cluster's rule."""
    with _inside(escaped(domain.source)):
        disks = tuple(
            Named(str(spec), _disk_resource(spec, identify=identify), disk=spec.target, is_backing=spec.is_backing)
            for spec in domain.disks
        )
    leases = tuple(Named(str(spec), _lease_resource(spec)) for spec in domain.leases)
    return disks + leases


def resources_of(domain: DomainXml, /, *, identify: Callable[[str], ResourceName]) -> tuple[Resource, ...]:
    """The resources to acquire. Raises `InvalidDomainXml` if two disks are one and either is written."""
    wanted = named_of(domain, identify=identify)
    with _inside(escaped(domain.source)):
        return distinct(wanted)


def _disk_resource(spec: DiskSpec, *, identify: Callable[[str], ResourceName]) -> Resource:
    name = spec.storage.name or identify(spec.storage.text)
    return Resource(lockspace=name.lockspace, name=name.name, mode=spec.mode, path=spec.storage.text)


def _lease_resource(spec: LeaseSpec) -> Resource:
    return Resource(
        lockspace=spec.name.lockspace,
        name=spec.name.name,
        mode=Mode.EXCLUSIVE,
        path=f"lease:{spec.name.lockspace}/{spec.key}",
    )


@contextmanager
def _inside(place: str) -> Iterator[None]:
    """Let an error say where in the XML it arose."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidDomainXml(f"{place}: {error}", hint=error.hint) from error


# --- the text ---


def parse_root(xml: bytes | str, /, *, tag: str, source: str) -> Element:
    """What libvirt wraps around a domain XML, by the same rules as the XML itself. Raises only `InvalidDomainXml`."""
    with _inside(escaped(source)):
        return _root(xml, tag=tag)


def _root(xml: bytes | str, *, tag: str = "domain") -> Element:
    if len(xml) > MAX_XML_LENGTH:
        raise InvalidDomainXml(f"larger than {MAX_XML_LENGTH // 1024**2} MiB: not a domain XML", hint=_ASK_LIBVIRT)
    try:
        root = fromstring(xml, forbid_dtd=True, forbid_entities=True, forbid_external=True)
    except DefusedXmlException as error:
        raise InvalidDomainXml("contains a DTD or entities, which no domain XML has", hint=_ASK_LIBVIRT) from error
    except (ParseError, LookupError, ValueError) as error:  # the last two: encodings unknown, or not kept to
        raise InvalidDomainXml(f"not well-formed XML: {escaped(str(error))}", hint=_ASK_LIBVIRT) from error
    if root.tag != tag:
        raise InvalidDomainXml(f"describes a <{escaped(root.tag[:80])}>, not a <{tag}>", hint=_ASK_LIBVIRT)
    return root


def _text(parent: Element, tag: str) -> str:
    element = only(parent, tag)
    return "" if element is None else element.text or ""


def _name(root: Element) -> str:
    name = _text(root, "name")
    if not name.strip():
        raise InvalidDomainXml("has no <name>", hint=_ASK_LIBVIRT)
    if not name.isprintable() or len(name.encode("utf-8", "surrogatepass")) > _NAME_MAX_BYTES:
        raise InvalidDomainXml(
            f"the <name> '{escaped(name[:80])}' has control characters or is longer than {_NAME_MAX_BYTES} bytes"
        )
    return name


def _uuid(root: Element) -> UUID:
    text = _text(root, "uuid").strip()
    if not text:
        raise InvalidDomainXml("has no <uuid>; libvirt gives it one when the domain is defined", hint=_ASK_LIBVIRT)
    if not _UUID.fullmatch(text):
        raise InvalidDomainXml(f"the <uuid> '{escaped(text[:80])}' is not a UUID")
    uuid = UUID(text)
    if len(set(uuid.bytes)) < 2:  # libvirt's own rule: such a UUID is a placeholder, and many domains have it
        raise InvalidDomainXml(f"the <uuid> {uuid} is a placeholder")
    return uuid


# --- disks ---


def _disk(disk: Element, *, chains: bool) -> Iterator[DiskSpec]:
    element = only(disk, "target")
    target = "" if element is None else element.get("dev", "")
    if not target:
        raise InvalidDomainXml("a <disk> has no <target dev='…'/>", hint=_ASK_LIBVIRT)
    with _inside(f"disk {escaped(target)}"):
        device = _device(disk)
        for part, storage in _storages(disk, device=device):
            mode = Mode.EXCLUSIVE if part.startswith("mirror") else _mode(disk, device=device)
            spec = DiskSpec(storage, mode, target, device, part)
            yield from _with_layers(spec, _below(disk, spec)) if chains and part in ("", "mirror") else (spec,)


def _below(disk: Element, spec: DiskSpec) -> Below:
    parent = only(disk, "mirror") if spec.part else disk
    if parent is None:
        return Below()
    said = only(parent, "format" if spec.part else "driver")
    return below(parent, spec.storage, image_format="" if said is None else said.get("type", ""), part=spec.part)


def _with_layers(spec: DiskSpec, lower: Below) -> Iterator[DiskSpec]:
    """The last one is what `rest` belongs to, and any warning."""
    mode = layer_mode(spec.mode)
    specs = [spec] + [
        DiskSpec(storage, mode, spec.target, spec.device, part, is_backing=True) for part, storage in lower.layers
    ]
    last = specs[-1]
    told = "; ".join(filter(None, (last.storage.warning, lower.warning)))
    yield from specs[:-1]
    yield replace(last, rest=lower.rest, storage=replace(last.storage, warning=told))


def _device(disk: Element) -> Device:
    text = disk.get("device", "disk")
    if text not in list(Device):
        raise InvalidDomainXml(f"is an unknown kind of device, '{escaped(text)}'", hint=USE_A_LEASE)
    return Device(text)


def _mode(disk: Element, *, device: Device) -> Mode:
    # libvirt itself adds <readonly/> to every CD-ROM when the domain is defined.
    if device is Device.CDROM or disk.find("readonly") is not None:
        return Mode.READ_ONLY
    if disk.find("shareable") is not None:
        return Mode.SHARED
    transient = disk.find("transient")
    if transient is not None and transient.get("shareBacking") == "yes":
        return Mode.SHARED  # opened read-only under an overlay of each guest's own, but by nobody who writes it
    return Mode.EXCLUSIVE


def _storages(disk: Element, *, device: Device) -> Iterator[tuple[str, Storage]]:
    """Everything that the disk opens for itself: its source and, while its blocks are being copied, their target."""
    source = list(opened(disk, part=""))
    if not source and device not in (Device.CDROM, Device.FLOPPY):
        raise InvalidDomainXml("has no source, and only CD-ROM and floppy drives can be empty", hint=_ASK_LIBVIRT)
    yield from source
    mirror = only(disk, "mirror")
    if mirror is not None:
        copy = list(opened(mirror, part="mirror"))
        if not copy:
            raise InvalidDomainXml("is being copied to a <mirror> that has no source")
        yield from copy


# --- leases and warnings ---


def _lease(lease: Element) -> LeaseSpec:
    lockspace, key = _text(lease, "lockspace"), _text(lease, "key")
    with _inside(f"lease '{escaped(key)}'"):
        element = only(lease, "target")
        target, offset = ("", "") if element is None else (element.get("path", ""), element.get("offset", "0"))
        if not target:
            raise InvalidDomainXml("has no <target path='…'/>")
        if not (offset.isascii() and offset.isdecimal() and len(offset) <= 20):
            raise InvalidDomainXml(f"has an offset that is not a number, '{escaped(offset)}'")
        name = identify_lease(key, target=target, lockspace=lockspace)
        return LeaseSpec(lockspace, key, target, int(offset), name)


def _warnings(root: Element, *, disks: tuple[DiskSpec, ...]) -> Iterator[str]:
    yield from (f"{spec} {spec.storage.warning}" for spec in disks if spec.storage.warning)
    arguments = (argument.get("value", "") for argument in root.findall(f"{_QEMU}commandline/{_QEMU}arg"))
    options = sorted({argument for argument in arguments if _QEMU_DISK_OPTION.fullmatch(argument)})
    if options:
        yield f"disks given to QEMU directly ({', '.join(options)} in <qemu:commandline>) are not locked"
    if any(device.get("type") in ("scsi", "scsi_host") for device in root.findall("devices/hostdev")):
        yield "SCSI devices of the host passed through by <hostdev> are not locked"
    if any(memory.find("source/path") is not None for memory in root.findall("devices/memory")):
        yield "files behind <memory> devices (NVDIMM, persistent memory) are not locked"
