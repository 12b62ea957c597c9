"""The images below an image, each as the one above it says.

Pure but for the `read` that it is handed. As in libvirt since CVE-2008-2004 nothing is guessed: an image is only looked
into if the one above it says that it is qcow2. One whose format is not said counts as raw, and the chain ends there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from etcdlock.diskfacts import ImageStart
from etcdlock.errors import InvalidInput, NotIdentified
from etcdlock.identity.paths import normal_path
from etcdlock.identity.qcow2 import QCOW2, Header, parse_header
from etcdlock.identity.words import escaped

DEEPEST_CHAIN: Final = 64

Read = Callable[[str], ImageStart]
"""The start of the file at this path. Never raises for what it finds, and may take as long as the disk does."""

_WITH_BACKING: Final = frozenset({QCOW2, "qcow", "qed", "vmdk"})
_PROTOCOL: Final = re.compile(r"[^/:]*:")
_SAY_IT: Final = (
    "see that every image of the chain is there and readable on this host; or give the chain in the XML, as"
    " `virsh dumpxml` does for a guest that runs"
)


@dataclass(frozen=True, slots=True)
class Link:
    """A qcow2 image, and how many are above it already."""

    path: str
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Chain:
    """The paths below an image, from the top down, and what was not looked at."""

    layers: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def may_have_backing(image_format: str, /) -> bool:
    """Whether images of that format can lie on others."""
    return image_format in _WITH_BACKING


def read_chain(link: Link, /, *, read: Read) -> Chain:
    """All that lies below that image. Raises `NotIdentified` where that cannot be told."""
    above, layers, warnings = normal_path(link.path), list[str](), list[str]()
    while True:
        start = read(above)
        header = _header(start, of=link.path)
        if layers and header.external_data_file:
            warnings.append(f"'{escaped(above)}' keeps its blocks in a data file, which is not locked")
        if not header.backing:
            return Chain(tuple(layers), tuple(warnings))
        if _PROTOCOL.match(header.backing):
            told = f"'{escaped(above)}' lies on '{escaped(header.backing)}', which is no path: it is not locked"
            return Chain(tuple(layers), (*warnings, told))
        below = _placed(header.backing, start, above=above, of=link.path)
        if below in (normal_path(link.path), *layers):
            raise _unknown(link.path, f"'{escaped(below)}' lies on itself")
        if link.depth + len(layers) >= DEEPEST_CHAIN:
            raise _unknown(link.path, f"it has more than {DEEPEST_CHAIN} images")
        layers.append(below)
        if header.backing_format != QCOW2:
            warning = _end(below, header.backing_format, above=above)
            return Chain(tuple(layers), (*warnings, *([warning] if warning else [])))
        above = below


def _header(start: ImageStart, *, of: str) -> Header:
    if start.error:
        raise _unknown(of, f"'{escaped(start.path)}' could not be read: {start.error}")
    try:
        return parse_header(start.content)
    except InvalidInput as error:
        raise _unknown(of, f"'{escaped(start.path)}' is said to be qcow2: {error}") from error


def _placed(backing: str, start: ImageStart, *, above: str, of: str) -> str:
    """A relative name counts from the folder of the image; from where that really is if it leads upwards."""
    folder = above.rpartition("/")[0]
    name = re.sub(r"^(\./+)+", "", backing)
    if name.startswith("../"):
        folder = start.folder
        while name.startswith("../"):
            folder, name = folder.rpartition("/")[0], name[3:].lstrip("/")
    try:
        return normal_path(backing if backing.startswith("/") else f"{folder}/{name}")
    except InvalidInput as error:
        raise _unknown(of, f"'{escaped(above)}' lies on '{escaped(backing)}': {error}") from error


def _end(path: str, image_format: str, *, above: str) -> str:
    if not image_format:
        return (
            f"'{escaped(above)}' does not say of which format '{escaped(path)}' is: it counts as raw, and what may lie"
            " below it is not locked"
        )
    if may_have_backing(image_format):
        return f"'{escaped(path)}' is {escaped(image_format)}: what may lie below it is not locked"
    return ""


def _unknown(path: str, why: str) -> NotIdentified:
    return NotIdentified(f"it cannot be told on which images '{escaped(path)}' lies: {why}", hint=_SAY_IT)
