"""What a domain XML names of its host besides disks: serial lines, sockets, network and PCI devices, shared folders.

Pure: text in, resources out. These are things of one host, and named after it: two guests of one host exclude each
other there, two hosts never do. What the host makes up itself for each guest (a pty, a tap device) takes nothing. A
folder that guests share with their host is meant to be used by several: it takes a shared lock, under the name that it
has on every host.

Hardware under two descriptions (a USB device by its address and by its maker) has two names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from xml.etree.ElementTree import Element

from etcdlock.domainxml import parse_root
from etcdlock.errors import InvalidDomainXml
from etcdlock.identity import Named, ResourceName, escaped, local_lockspace
from etcdlock.model import Mode, Resource

Identify = Callable[[str], ResourceName]

_CHARACTER_DEVICES = ("console", "serial", "parallel", "channel")
_WITH_A_PATH = frozenset(("dev", "file", "pipe", "unix"))
_SHARED_FOLDERS = {"mount": "dir", "file": "file", "block": "dev"}


def parse_devices(xml: bytes | str, /, *, source: str, host: str, identify: Identify) -> tuple[Named, ...]:
    """Each once, in the order of the XML. Raises only `InvalidDomainXml`; `source` names the text in messages."""
    devices = parse_root(xml, tag="domain", source=source).find("devices")
    found: dict[tuple[str, str], Named] = {}
    for named in _all(devices, host=host, identify=identify) if devices is not None else ():
        # libvirt writes the first serial line down a second time, as the console
        found.setdefault((named.resource.lockspace, named.resource.name), named)
    return tuple(found.values())


def _all(devices: Element, *, host: str, identify: Identify) -> Iterator[Named]:
    for kind in _CHARACTER_DEVICES:
        yield from _own(kind, (_character(device) for device in devices.findall(kind)), host=host)
    yield from _own("net", (_network(device) for device in devices.findall("interface")), host=host)
    yield from _own("hostdev", (_host_device(device) for device in devices.findall("hostdev")), host=host)
    for folder in devices.findall("filesystem"):
        yield from _folder(folder, identify=identify)


def _own(kind: str, names: Iterable[str], *, host: str) -> Iterator[Named]:
    for name in filter(None, names):
        resource = Resource(local_lockspace(host), name, Mode.EXCLUSIVE, name)
        yield Named(f"{kind} {escaped(name)}", resource)


def _character(device: Element) -> str:
    """A path that the guest has for itself; what another program made, and it only connects to, is not its own."""
    source = device.find("source")
    if source is None or device.get("type") not in _WITH_A_PATH or source.get("mode") == "connect":
        return ""
    return source.get("path", "")


def _network(device: Element) -> str:
    source = device.find("source")
    if source is None:
        return ""
    if device.get("type") == "direct" and source.get("mode") == "passthrough":
        return _prefixed("netdev", source.get("dev", ""))
    return _address(source.find("address")) if device.get("type") == "hostdev" else ""


def _host_device(device: Element) -> str:
    source = device.find("source")
    if source is None:
        return ""
    match device.get("mode", "subsystem"), device.get("type"):
        case "capabilities", kind:
            return source.findtext({"storage": "block", "misc": "char", "net": "interface"}.get(kind or "", ""), "")
        case _, "pci":
            return _address(source.find("address"))
        case _, "usb":
            return _usb(source)
        case _, "mdev":
            address = source.find("address")
            return "" if address is None else _prefixed("mdev", address.get("uuid", "").lower())
        case _:
            return ""  # a SCSI device is a disk, which parse_domain warns of


def _usb(source: Element) -> str:
    address, vendor, product = source.find("address"), source.find("vendor"), source.find("product")
    if address is not None:
        bus, device = (_number(address.get(part, "0")) for part in ("bus", "device"))
        return f"usb:{bus}.{device}"
    if vendor is None or product is None:
        return ""
    return f"usb:{_number(vendor.get('id', '0')):04x}:{_number(product.get('id', '0')):04x}"


def _address(address: Element | None) -> str:
    if address is None or address.get("type", "pci") != "pci":
        return ""
    domain, bus, slot, function = (_number(address.get(part, "0")) for part in ("domain", "bus", "slot", "function"))
    return f"pci:{domain:04x}:{bus:02x}:{slot:02x}.{function}"


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise InvalidDomainXml(f"a device's address has '{escaped(text[:40])}' where a number belongs") from None


def _prefixed(prefix: str, name: str) -> str:
    return f"{prefix}:{name}" if name else ""


def _folder(folder: Element, *, identify: Identify) -> Iterator[Named]:
    kind, source = folder.get("type", "mount"), folder.find("source")
    path = "" if source is None else source.get(_SHARED_FOLDERS.get(kind, ""), "")
    if not path.startswith("/"):
        return
    mode = Mode.SHARED if kind == "mount" else Mode.EXCLUSIVE
    if folder.find("readonly") is not None:
        mode = Mode.READ_ONLY
    name = identify(path)
    yield Named(f"filesystem {escaped(path)}", Resource(name.lockspace, name.name, mode, path))
