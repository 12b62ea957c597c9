"""What a guest needs locked, registered piece by piece, as libvirt's lock-manager API has it.

A disk has the same name on every host. The other kinds are things of one host: its serial line, its PCI slot. They are
named after the host, so that two guests of one host exclude each other there and two hosts never do. A folder that
guests share with their host (`filesystem`) is used by several at once: it is shared unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from etcdlock.errors import InvalidInput
from etcdlock.identity import Named, ResourceName, distinct, identify_lease, local_lockspace, with_readonly_rule
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
    """Names what is registered, on one host and by one cluster's rules."""

    host: str
    identify: Callable[[str], ResourceName]
    locks_readonly_disks: bool = False

    def resource(self, kind: ResourceKind, path: str, /, *, mode: Mode | None = None) -> Resource:
        """`path` is absolute; for `hostdev` and `net` it may be any name that tells the device, as `pci:0000:3b:00.0`.

        Without a mode: exclusive, and shared for a `filesystem`. Raises `InvalidInput`.
        """
        if not path or "\0" in path:
            raise InvalidInput(f"{kind}: {path!r} names nothing")
        if kind in _EVERYWHERE:
            if not path.startswith("/"):
                raise InvalidInput(f"{kind}: {path!r} is not an absolute path", hint="give it as the guest has it")
            name = self.identify(path)
        else:
            name = ResourceName(local_lockspace(self.host), path)
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
        return with_readonly_rule(resources, rule="shared" if self.locks_readonly_disks else "none")
