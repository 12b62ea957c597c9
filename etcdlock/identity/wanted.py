"""What is to be locked, all together: a disk named twice, modes, and the command line's --disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from etcdlock.errors import InvalidInput
from etcdlock.identity.words import escaped
from etcdlock.model import Mode, Resource


@dataclass(frozen=True, slots=True)
class Named:
    """A resource, and what a person calls the place where it was asked for: "disk vda", "--disk /a"."""

    called: str
    resource: Resource


def distinct(wanted: Iterable[Named], /) -> tuple[Resource, ...]:
    """The resources without repetition, in the order given.

    Twice the same one is fine where nobody writes alone: then the stronger mode stands. Otherwise `InvalidInput`: a
    domain that opens one disk twice destroys it all by itself.
    """
    found: dict[tuple[str, str], Named] = {}
    for new in wanted:
        key = (new.resource.lockspace, new.resource.name)
        old = found.setdefault(key, new)
        if old is new:
            continue
        if Mode.EXCLUSIVE in (old.resource.mode, new.resource.mode):
            raise InvalidInput(
                f"{old.called} ({old.resource.mode}) and {new.called} ({new.resource.mode})"
                f" are the same resource, '{escaped(str(new.resource))}'",
                hint="name it once; or mark both as shared or read-only if that is what they are",
            )
        if new.resource.mode is Mode.SHARED:
            found[key] = replace(old, resource=replace(old.resource, mode=Mode.SHARED))
    return tuple(entry.resource for entry in found.values())





@dataclass(frozen=True, slots=True)
class DiskArgument:
    """A disk as given on a command line; the path may still be relative."""

    path: str
    mode: Mode


_MODE_SUFFIXES: Final = {
    "exclusive": Mode.EXCLUSIVE,
    "shared": Mode.SHARED,
    "readonly": Mode.READ_ONLY,
    "read-only": Mode.READ_ONLY,
}

# What somebody writes who means a mode: taken as part of the path it would lock a disk that nobody uses.
_NEARLY_MODES: Final = frozenset(
    {*_MODE_SUFFIXES, "ro", "rw", "ex", "excl", "sh", "share", "sharable", "shareable"}
    | {"read", "read_only", "rdonly", "readwrite", "read-write", "write"}
)


def parse_disk_argument(argument: str, /) -> DiskArgument:
    """`PATH`, `PATH:shared`, `PATH:readonly` or `PATH:exclusive`.

    Only these words count as a mode, so a path may contain colons. One that ends in `:shared` is given as
    `…:shared:exclusive`.
    """
    head, colon, tail = argument.rpartition(":")
    mode = _MODE_SUFFIXES.get(tail) if colon else None
    if colon and mode is None and tail.lower() in _NEARLY_MODES:
        raise InvalidInput(
            f"--disk '{escaped(argument)}': '{tail}' is not a mode; the modes are shared, readonly and exclusive",
            hint=f"if the path itself ends in ':{tail}', write '{escaped(argument)}:exclusive'",
        )
    path = argument if mode is None else head
    if not path or "\0" in path:
        raise InvalidInput(f"--disk '{escaped(argument)}' names no disk", hint="write PATH[:shared|:readonly]")
    return DiskArgument(path, mode or Mode.EXCLUSIVE)


def with_readonly_rule(resources: tuple[Resource, ...], /, *, rule: str) -> tuple[Resource, ...]:
    """What read-only disks take under the cluster's rule: `none` no lock at all, `shared` a shared one."""
    if rule != "shared":
        return resources
    return tuple(replace(item, mode=Mode.SHARED) if item.mode is Mode.READ_ONLY else item for item in resources)
