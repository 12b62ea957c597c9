"""What a `<disk>`, or any other element with a `<source>`, opens: its storage, and what lies below it.

Pure, like `domainxml`, whose part it is: nothing is opened here. Raises only `InvalidDomainXml` and `InvalidInput`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import TYPE_CHECKING, Final

from etcdlock.errors import InvalidDomainXml
from etcdlock.identity import (
    DEEPEST_CHAIN,
    QCOW2,
    Link,
    NetworkHost,
    NetworkSource,
    ResourceName,
    escaped,
    identify_network,
    identify_volume,
    may_have_backing,
    normal_path,
)

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

USE_A_LEASE: Final = (
    "leave this disk out of the XML given to etcdlock and describe it by a <lease> whose key is the same on every host"
)


class SourceKind(StrEnum):
    """What a disk's source is; the first three are named by a path."""

    FILE = "file"
    BLOCK = "block"
    DIR = "dir"
    VOLUME = "volume"
    NETWORK = "network"


_PATH_ATTRIBUTES: Final = {SourceKind.FILE: "file", SourceKind.BLOCK: "dev", SourceKind.DIR: "dir"}


@dataclass(frozen=True, slots=True)
class Storage:
    """One thing that a disk opens. `name` is None where the path decides, by the cluster's rule."""

    kind: SourceKind
    text: str
    name: ResourceName | None
    warning: str = ""


def only(parent: Element, tag: str) -> Element | None:
    """The child element of that name; libvirt would take the first of several, which is not what was meant."""
    found = parent.findall(tag)
    if len(found) > 1:
        raise InvalidDomainXml(f"has {len(found)} <{tag}> elements where only one has a meaning")
    return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Below:
    """What lies below a storage, as far as the XML tells. `rest` is the image that tells what comes after that."""

    layers: tuple[tuple[str, Storage], ...] = ()
    rest: Link | None = None
    warning: str = ""


def below(parent: Element, top: Storage, /, *, image_format: str, part: str) -> Below:
    """The nested `<backingStore>` elements of a disk or mirror. An empty one says that there is no more."""
    found: list[tuple[str, Storage]] = []
    for depth in count(1):
        element = only(parent, "backingStore")
        if element is None:
            return _unsaid(top, image_format, tuple(found), depth=depth - 1)
        if element.get("type") is None and only(element, "source") is None:
            return Below(tuple(found))
        if depth > DEEPEST_CHAIN:
            raise InvalidDomainXml(f"has more than {DEEPEST_CHAIN} backing files")
        called = f"{part} backing {depth}".strip()
        layer = list(opened(element, part=called))
        if not layer or layer[0][0] != called:
            raise InvalidDomainXml("has a <backingStore> that has no source")
        found += layer
        parent, top = element, layer[0][1]
        said = only(element, "format")
        image_format = "" if said is None else said.get("type", "")
    raise AssertionError("counting has no end")


def _unsaid(last: Storage, image_format: str, layers: tuple[tuple[str, Storage], ...], *, depth: int) -> Below:
    """Where the XML says no more, the image does; without a format it is raw, and its contents mean nothing."""
    if not may_have_backing(image_format):
        return Below(layers)
    if image_format == QCOW2 and last.kind in (SourceKind.FILE, SourceKind.BLOCK):
        return Below(layers, Link(last.text, depth))
    said = f"is {escaped(image_format)}, and the XML does not say what lies below it: that is not locked"
    return Below(layers, warning=said)


def opened(parent: Element, *, part: str) -> Iterator[tuple[str, Storage]]:
    """The `<source>` of a disk or mirror, and the file that keeps its blocks where the source is only their index."""
    source = only(parent, "source")
    storage = _storage(parent, source=source)
    if storage is not None:
        yield part, storage
    store = None if source is None else only(source, "dataStore")
    if store is not None:
        blocks = _storage(store, source=only(store, "source"))
        if blocks is None:
            raise InvalidDomainXml("has a <dataStore> without a source")
        yield f"{part} data file".strip(), blocks


def _storage(parent: Element, *, source: Element | None) -> Storage | None:
    """What `parent`, with a `type`, and its `<source>` name together; None if they name nothing."""
    kind = parent.get("type", "file")
    if kind not in list(SourceKind):
        raise InvalidDomainXml(
            f"disks of type '{escaped(kind)}' cannot be named alike on every host", hint=USE_A_LEASE
        )
    if source is None:  # block copies of older libvirts have the path on <mirror> alone
        path = parent.get("file") if parent.tag == "mirror" else None
        return Storage(SourceKind.FILE, _checked(path), None) if path else None
    if kind == SourceKind.NETWORK:
        return _network(source)
    if kind == SourceKind.VOLUME:
        return _volume(source)
    path = source.get(_PATH_ATTRIBUTES[SourceKind(kind)])
    return Storage(SourceKind(kind), _checked(path), None) if path else None


def _checked(path: str) -> str:
    normal_path(path)
    return path


def _volume(source: Element) -> Storage | None:
    pool, volume = source.get("pool", ""), source.get("volume", "")
    if not pool and not volume:
        return None
    name = identify_volume(volume, pool=pool)
    warning = (
        f"is named by its storage pool and volume, '{escaped(name.name)}': no other host may call this pool otherwise,"
        " and no domain may name the volume by its path"
    )
    return Storage(SourceKind.VOLUME, f"volume:{name.name}", name, warning)


def _network(source: Element) -> Storage:
    snapshot = only(source, "snapshot")
    network = NetworkSource(
        protocol=source.get("protocol", ""),
        image=source.get("name", ""),
        hosts=tuple(_host(element) for element in source.findall("host")),
        snapshot="" if snapshot is None else snapshot.get("name", ""),
        query=source.get("query", ""),
    )
    name = identify_network(network)
    warning = f"is named by a server on this host, '{name}', which is another server on every host"
    text = f"{name.lockspace}:{name.name}"
    return Storage(SourceKind.NETWORK, text, name, warning if network.means_this_host else "")


def _host(host: Element) -> NetworkHost:
    transport = host.get("transport", "tcp")
    if transport not in ("tcp", "rdma", "unix"):
        raise InvalidDomainXml(f"is reached by an unknown transport, '{escaped(transport)}'", hint=USE_A_LEASE)
    if transport != "unix":
        return NetworkHost(host.get("name", ""), port=host.get("port", ""))
    socket = host.get("socket", "")
    if not socket:
        raise InvalidDomainXml("is reached by a Unix socket that is not named")
    return NetworkHost("", socket=socket)
