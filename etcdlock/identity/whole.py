"""The disk that a partition is part of: whoever has the partition keeps the whole disk from being written.

Told by the partition's name alone, `…/partN`, in the lockspaces where `devices` names partitions so, but for those of
network file systems, on whose files a loop device may lie. A host's own file, or an rbd image in a namespace, may be
called like that, too: then what is shared is the name of its folder or namespace, which is hardly anybody's disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from etcdlock.identity.devices import LVM_LOCKSPACE, MD_LOCKSPACE, RBD_LOCKSPACE, UNIT_LOCKSPACE
from etcdlock.identity.naming import BOOTS_LOCKSPACE
from etcdlock.model import Mode, Resource

_WITH_PARTITIONS: Final = frozenset((UNIT_LOCKSPACE, MD_LOCKSPACE, LVM_LOCKSPACE, RBD_LOCKSPACE))
_PARTITION: Final = re.compile(r"(.+)/part\d+", re.DOTALL)


def whole_of(resource: Resource, /) -> Resource | None:
    """What a partition that is locked shares with other partitions of its disk; None if it is none."""
    if resource.mode is Mode.READ_ONLY:
        return None
    if resource.lockspace not in _WITH_PARTITIONS and not resource.lockspace.startswith(BOOTS_LOCKSPACE):
        return None
    found = _PARTITION.fullmatch(resource.name)
    return None if found is None else replace(resource, name=found[1], mode=Mode.SHARED, path="")


def with_wholes(resources: Iterable[Resource], /) -> tuple[Resource, ...]:
    """And the disks that they are part of, each once, unless it is among them in whatever mode."""
    wanted = tuple(resources)
    named = {(one.lockspace, one.name) for one in wanted}
    wholes = {(one.lockspace, one.name): one for one in map(whole_of, wanted) if one is not None}
    return (*wanted, *(one for name, one in wholes.items() if name not in named))
