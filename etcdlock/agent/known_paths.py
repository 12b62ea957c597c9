"""What this host's doors have called a guest's disks, and by which names they were locked.

A disk's file may be moved, deleted or replaced while its guest has it open. So what is locked is found again by the
path under which it was asked for, in what the guest holds, and not by looking at that path anew.

What came from another host with a migrating guest is not known here by its path until it has been asked for here: the
same path may be another disk on this host.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from etcdlock.agent.judging import named
from etcdlock.agent.residents import Resident
from etcdlock.errors import InvalidInput
from etcdlock.identity import normal_path
from etcdlock.model import Resource


def remember(resident: Resident, asked: Resource, locked: Resource, /) -> None:
    """It was asked for under this path, and is locked."""
    path = _normal(asked.path)
    if path:
        resident.paths[path] = replace(locked, path=asked.path)


def remember_all(resident: Resident, resources: Iterable[Resource], /) -> None:
    """What an earlier agent of this host has locked."""
    for resource in resources:
        remember(resident, resource, resource)


def known(resident: Resident, asked: Resource, /, *, among: Iterable[Resource]) -> Resource | None:
    """The very resource in the mode that is asked for, if the guest holds it under that path and has not closed it."""
    found = resident.paths.get(_normal(asked.path))
    if found is None:
        return None
    held = named(found, among=among)
    if not held or resident.closed.intersection(held):
        return None
    return replace(found, mode=asked.mode)


def given(resident: Resident, asked: Resource, /, *, among: Iterable[Resource]) -> list[Resource]:
    """What the guest holds under that path, in whatever mode, closed or not."""
    found = resident.paths.get(_normal(asked.path))
    return [] if found is None else named(found, among=among)


def forget(resident: Resident, gone: Resource, /) -> None:
    """The guest does not hold it any more."""
    name = (gone.lockspace, gone.name)
    for path in [path for path, one in resident.paths.items() if (one.lockspace, one.name) == name]:
        del resident.paths[path]


def _normal(path: str) -> str:
    try:
        return normal_path(path) if path.startswith("/") else ""
    except InvalidInput:
        return ""
