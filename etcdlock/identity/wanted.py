"""What is to be locked, all together: a disk named twice, modes, and the command line's --disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from etcdlock.errors import InvalidInput
from etcdlock.identity.qcow2 import QCOW2
from etcdlock.identity.words import escaped
from etcdlock.model import Mode, Resource


@dataclass(frozen=True, slots=True)
class Named:
    """A resource, and what a person calls the place where it was asked for: "disk vda", "--disk /a".

    `disk` is the disk whose it is, and `is_backing` whether that only reads it, as an image below the one it writes.
    """

    called: str
    resource: Resource
    disk: str = ""
    is_backing: bool = False


def distinct(wanted: Iterable[Named], /) -> tuple[Resource, ...]:
    """The resources without repetition, in the order given.

    Twice the same one is fine where nobody writes alone: then the stronger mode stands. It is fine too where a disk
    writes an image of its own chain, as a block commit does. Otherwise `InvalidInput`: a domain that opens one disk
    twice destroys it all by itself.
    """
    found: dict[tuple[str, str], list[Named]] = {}
    for new in wanted:
        same = found.setdefault((new.resource.lockspace, new.resource.name), [])
        for old in same:
            _check_together(old, new)
        same.append(new)
    return tuple(_strongest(same) for same in found.values())


def _check_together(old: Named, new: Named) -> None:
    if Mode.EXCLUSIVE not in (old.resource.mode, new.resource.mode):
        return
    if new.disk and old.disk == new.disk and (old.is_backing or new.is_backing):
        return
    raise InvalidInput(
        f"{old.called} ({old.resource.mode}) and {new.called} ({new.resource.mode})"
        f" are the same resource, '{escaped(str(new.resource))}'",
        hint="name it once; or mark both as shared or read-only if that is what they are",
    )


def _strongest(same: list[Named]) -> Resource:
    for mode in (Mode.EXCLUSIVE, Mode.SHARED):
        if any(one.resource.mode is mode for one in same):
            return replace(same[0].resource, mode=mode)
    return same[0].resource


@dataclass(frozen=True, slots=True)
class DiskArgument:
    """A disk as given on a command line; the path may still be relative. `image_format` is what it is said to be."""

    path: str
    mode: Mode
    image_format: str = "raw"


_MODE_SUFFIXES: Final = {
    "exclusive": Mode.EXCLUSIVE,
    "shared": Mode.SHARED,
    "readonly": Mode.READ_ONLY,
    "read-only": Mode.READ_ONLY,
}

_FORMATS: Final = ("raw", QCOW2)

# What somebody writes who means a mode: taken as part of the path it would lock a disk that nobody uses.
_NEARLY_MODES: Final = frozenset(
    {*_MODE_SUFFIXES, "ro", "rw", "ex", "excl", "sh", "share", "sharable", "shareable"}
    | {"read", "read_only", "rdonly", "readwrite", "read-write", "write"}
)


def parse_disk_argument(argument: str, /) -> DiskArgument:
    """`PATH`, `PATH:shared`, `PATH:readonly` or `PATH:exclusive`, each also as `PATH:qcow2` and `PATH:raw`.

    Only these words count as a mode or a format, so a path may contain colons. One that ends in `:shared` is given as
    `…:shared:exclusive`, one that ends in `:qcow2` as `…:qcow2:raw`.
    """
    head, colon, tail = argument.rpartition(":")
    mode = _MODE_SUFFIXES.get(tail) if colon else None
    if colon and mode is None and tail.lower() in _NEARLY_MODES:
        raise InvalidInput(
            f"--disk '{escaped(argument)}': '{tail}' is not a mode; the modes are shared, readonly and exclusive",
            hint=f"if the path itself ends in ':{tail}', write '{escaped(argument)}:exclusive'",
        )
    path = argument if mode is None else head
    head, colon, tail = path.rpartition(":")
    image_format = tail if colon and tail in _FORMATS else ""
    path = head if image_format else path
    if not path or "\0" in path:
        raise InvalidInput(f"--disk '{escaped(argument)}' names no disk", hint="write PATH[:qcow2][:shared|:readonly]")
    return DiskArgument(path, mode or Mode.EXCLUSIVE, image_format or "raw")


def with_readonly_rule(resources: tuple[Resource, ...], /, *, rule: str) -> tuple[Resource, ...]:
    """What read-only disks take under the cluster's rule: `none` no lock at all, `shared` a shared one."""
    if rule != "shared":
        return resources
    return tuple(replace(item, mode=Mode.SHARED) if item.mode is Mode.READ_ONLY else item for item in resources)


def of_domain(named: Named, domain: str, /, *, readonly: bool) -> Named:
    """Of one domain among several; with `readonly` shared at most, so that several may read it and nobody writes."""
    mode = Mode.SHARED if readonly and named.resource.mode is Mode.EXCLUSIVE else named.resource.mode
    disk = f"{domain}: {named.disk}" if named.disk else ""
    return replace(
        named, called=f"{named.called} of {escaped(domain)}", resource=replace(named.resource, mode=mode), disk=disk
    )


def check_reservable(resources: tuple[Resource, ...], /) -> tuple[Resource, ...]:
    """A reservation holds something. Raises `InvalidInput`."""
    if all(item.mode is Mode.READ_ONLY for item in resources):
        raise InvalidInput(
            "there is nothing to reserve",
            hint="give a disk, or a domain that has one; what is read-only takes no lock, what is shared does",
        )
    return resources


def layer_mode(mode: Mode, /) -> Mode:
    """What the images below one take that is opened in that mode: they are read, like what is read-only itself."""
    return Mode.READ_ONLY if mode is Mode.READ_ONLY else Mode.SHARED
