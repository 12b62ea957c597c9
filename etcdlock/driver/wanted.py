"""What a guest needs locked, registered piece by piece, as libvirt's lock-manager API has it.

A disk has the same name on every host. The other kinds are things of one host: its serial line, its PCI slot. They are
named after the host, so that two guests of one host exclude each other there and two hosts never do. A folder that
guests share with their host (`filesystem`) is used by several at once: it is shared unless said otherwise.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import StrEnum

from etcdlock.domainxml import DomainXml, chains_of, named_of, parse_domain, with_chains
from etcdlock.driver.plugin import Driver
from etcdlock.errors import InvalidInput
from etcdlock.identity import (
    QCOW2,
    Link,
    Named,
    ResourceName,
    distinct,
    identify_lease,
    layer_mode,
    local_lockspace,
    with_readonly_rule,
)
from etcdlock.journal import note
from etcdlock.model import Mode, Resource


class ResourceKind(StrEnum):
    """What is registered. All but DISK and FILESYSTEM are this host's own."""

    DISK = "disk"
    FILESYSTEM = "filesystem"
    CONSOLE = "console"
    PARALLEL = "parallel"
    SERIAL = "serial"
    CHANNEL = "channel"
    NET = "net"
    HOSTDEV = "hostdev"


_EVERYWHERE = frozenset((ResourceKind.DISK, ResourceKind.FILESYSTEM))


@dataclass(frozen=True, slots=True)
class Registrar:
    """Names what is registered, on the driver's host and by its cluster's rules."""

    driver: Driver

    def each(self, kind: ResourceKind, path: str, /, *, mode: Mode | None, image_format: str) -> list[Named]:
        """What was asked for, and behind it what lies below it."""
        called = f"{kind} {path}"
        if kind is ResourceKind.DISK:
            return self.disk(path, mode=mode, image_format=image_format, called=called)
        return [Named(called, self.resource(kind, path, mode=mode))]

    def disk(self, path: str, /, *, mode: Mode | None, image_format: str, called: str) -> list[Named]:
        """A disk, and the images below it where these are locked and it is said to be able to have some."""
        if image_format not in ("raw", QCOW2):
            raise InvalidInput(f"{called}: image_format is {image_format!r}; it is 'raw' or {QCOW2!r}")
        top = self.resource(ResourceKind.DISK, path, mode=mode)
        wanted = [Named(called, top, disk=called)]
        if image_format != QCOW2 or not self.driver.locks_chains:
            return wanted
        link = Link(path)
        chain = self.driver.below((link,))[link]
        for warning in chain.warnings:
            note("chain_ends", level=logging.WARNING, path=path, warning=warning)
        for below in chain.layers:
            layer = self.resource(ResourceKind.DISK, below, mode=layer_mode(top.mode))
            wanted.append(Named(f"{called} (backing {below})", layer, disk=called, is_backing=True))
        return wanted

    def domain(self, xml: bytes | str, /, *, source: str) -> tuple[DomainXml, tuple[Named, ...]]:
        """A domain XML, and all disks and leases in it, with the images below. Raises `InvalidDomainXml`."""
        parsed = parse_domain(xml, source=source, chains=self.driver.locks_chains)
        warnings = parsed.warnings
        if self.driver.locks_chains:
            parsed = with_chains(parsed, chain=self.driver.below(chains_of(parsed)).__getitem__)
            warnings += parsed.warnings
        for warning in warnings:
            note("not_locked", level=logging.WARNING, domain=parsed.domain, warning=warning)
        return parsed, named_of(parsed, identify=self.driver.identify)

    def resource(self, kind: ResourceKind, path: str, /, *, mode: Mode | None = None) -> Resource:
        """`path` is absolute; for `hostdev` and `net` it may be any name that tells the device, as `pci:0000:3b:00.0`.

        Without a mode: exclusive, and shared for a `filesystem`. Raises `InvalidInput`.
        """
        if not path or "\0" in path:
            raise InvalidInput(f"{kind}: {path!r} names nothing")
        if kind in _EVERYWHERE:
            if not path.startswith("/"):
                raise InvalidInput(f"{kind}: {path!r} is not an absolute path", hint="give it as the guest has it")
            name = self.driver.identify(path)
        else:
            name = ResourceName(local_lockspace(self.driver.host), path)
        usual = Mode.SHARED if kind is ResourceKind.FILESYSTEM else Mode.EXCLUSIVE
        return Resource(name.lockspace, name.name, mode or usual, path)

    def lease(self, key: str, /, *, lockspace: str, target: str) -> Resource:
        """An explicit lease, as libvirt's `<lease>`. Raises `InvalidInput`."""
        name = identify_lease(key, target=target, lockspace=lockspace)
        return Resource(name.lockspace, name.name, Mode.EXCLUSIVE, f"lease:{name.lockspace}/{key}")

    def all_of(self, wanted: list[Named], /) -> tuple[Resource, ...]:
        """Each once, read-only ones by the cluster's rule. Raises `InvalidInput` where one disk is wanted twice."""
        return self.by_rule(distinct(wanted))

    def by_rule(self, resources: tuple[Resource, ...], /) -> tuple[Resource, ...]:
        """What read-only ones take."""
        return with_readonly_rule(resources, rule="shared" if self.driver.locks_readonly_disks else "none")
