"""What a qcow2 image says of the image below it: the start of its file, read by QEMU's published format.

Hostile bytes raise `InvalidInput` and nothing else. Only called for an image of which whoever uses it has said that it
is qcow2: a guest can write any header that it likes into a raw one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from etcdlock.errors import InvalidInput

QCOW2: Final = "qcow2"

_MAGIC: Final = b"QFI\xfb"
_HEADER: Final = struct.Struct(">4sIQI")
_FEATURES_AT: Final = 72
_LENGTH_AT: Final = 100
_SHORTEST_V3: Final = 104
_EXTERNAL_DATA_FILE: Final = 1 << 2
_BACKING_FORMAT: Final = 0xE2792ACA
_LONGEST_NAME: Final = 1023


@dataclass(frozen=True, slots=True)
class Header:
    """`backing` is empty where there is nothing below, `backing_format` where it is not said what that is."""

    backing: str = ""
    backing_format: str = ""
    external_data_file: bool = False


def parse_header(start: bytes, /) -> Header:
    """Of the first 64 KiB of the file, or all of a shorter one. Raises `InvalidInput`."""
    if len(start) < _FEATURES_AT or not start.startswith(_MAGIC):
        raise InvalidInput("it is not a qcow2 image")
    _, version, offset, size = _HEADER.unpack_from(start)
    if version not in (2, 3):
        raise InvalidInput(f"it is a qcow2 image of the unknown version {version}")
    length, features = _FEATURES_AT, 0
    if version > 2:
        if len(start) < _SHORTEST_V3:
            raise InvalidInput("its qcow2 header is cut short")
        (features,) = struct.unpack_from(">Q", start, _FEATURES_AT)
        (length,) = struct.unpack_from(">I", start, _LENGTH_AT)
    has_data_file = bool(features & _EXTERNAL_DATA_FILE)
    if not offset or not size:
        return Header(external_data_file=has_data_file)
    if size > _LONGEST_NAME or offset + size > len(start) or offset < length:
        raise InvalidInput("its qcow2 header has the name of its backing file where none can be")
    extensions = dict(_extensions(start[:offset], length))
    backing = _text(start[offset : offset + size])
    return Header(backing, _text(extensions.get(_BACKING_FORMAT, b"")), has_data_file)


def _extensions(start: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Up to the one that ends them; they end at the latest where the backing file's name begins."""
    while at + 8 <= len(start):
        kind, length = struct.unpack_from(">II", start, at)
        if not kind:
            return
        if at + 8 + length > len(start):
            raise InvalidInput("its qcow2 header has an extension that is longer than the header")
        yield kind, start[at + 8 : at + 8 + length]
        at += 8 + (length + 7) // 8 * 8


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
