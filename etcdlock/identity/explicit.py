"""Names that a domain XML spells out: explicit leases, and volumes of storage pools."""

from __future__ import annotations

from typing import Final

from etcdlock.errors import InvalidInput
from etcdlock.identity.paths import normal_path
from etcdlock.identity.words import ResourceName, escaped

VOLUME_LOCKSPACE: Final = "volume"


def identify_lease(key: str, /, *, target: str, lockspace: str) -> ResourceName:
    """The name of an explicit `<lease>`; libvirt's lockd plug-in sends the same pair, "target/lockspace" and key."""
    if not key or not lockspace:
        raise InvalidInput("a lease needs both a key and a lockspace")
    if "\0" in key:
        raise InvalidInput("a lease's key cannot contain a NUL character")
    return ResourceName(normal_path(f"{normal_path(target)}/{lockspace}"), key)


def identify_volume(volume: str, /, *, pool: str) -> ResourceName:
    """The name of a volume of a libvirt storage pool: only as good as the pool's name, which each host chooses."""
    if not volume or not pool or "/" in pool:
        raise InvalidInput(f"'{escaped(pool)}' and '{escaped(volume)}' do not name a storage pool and a volume in it")
    return ResourceName(VOLUME_LOCKSPACE, f"{pool}/{volume}")
