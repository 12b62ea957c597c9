"""The name by which a SCSI logical unit is known in the world, from its device identification page (VPD 83h).

All paths to one unit return the same page, whatever the host, the bus or the transport; so a disk is called alike
with and without multipath. The page may carry several designators; the first of these that there is counts, so that
every host comes to the same:

    NAA 6, NAA 5, NAA 2 (assigned by a registered vendor), EUI-64, SCSI name string, T10 vendor id, NAA 3 (by its admin)

A designator that is all zeros, of a target or port instead of the unit, or that only its vendor understands is no name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_PAGE: Final = 0x83
_HEADER_BYTES: Final = 4
_OF_THE_UNIT: Final = 0
_T10, _EUI64, _NAA, _NAME = 1, 2, 3, 8

_ORDER: Final = ("naa.6", "naa.5", "naa.2", "eui.", "iqn.", "naa.", "t10.", "naa.3")


def unit_name(page: bytes, /) -> str:
    """As `naa.…`, `eui.…`, `t10.…` or an iSCSI name; empty if the page has none. Any bytes are a page."""
    found = sorted(set(_names(page)))
    for prefix in _ORDER:
        for name in found:
            if name.startswith(prefix) and (prefix != "naa." or name[4] not in "6523"):
                return name
    return ""


def wwid_name(text: str, /) -> str:
    """The same from sysfs's `wwid`, or from what multipath calls its device (`3…` for NAA, `2…` for EUI-64)."""
    name = "_".join(text.split())
    kind, _, rest = name.partition(".")
    if kind.lower() in ("naa", "eui", "uuid"):
        digits = rest.lower().removeprefix("0x")
        return "" if _is_nothing(digits) else f"{kind.lower()}.{digits}"
    if kind in ("t10", "nvme", "iqn"):
        return name
    prefix = {"3": "naa.", "2": "eui."}.get(name[:1])
    is_hex = len(name) in (17, 25, 33) and all(digit in "0123456789abcdefABCDEF" for digit in name[1:])
    return prefix + name[1:].lower() if prefix and is_hex and not _is_nothing(name[1:]) else ""


def _is_nothing(digits: str) -> bool:
    return not digits.strip("0-")


def _names(page: bytes) -> Iterator[str]:
    if len(page) < _HEADER_BYTES or page[1] != _PAGE:
        return
    end = min(len(page), _HEADER_BYTES + int.from_bytes(page[2:4], "big"))
    at = _HEADER_BYTES
    while at + 4 <= end:
        kind, length = page[at + 1] & 0x0F, page[at + 3]
        value = page[at + 4 : at + 4 + length]
        if (page[at + 1] >> 4) & 0x03 == _OF_THE_UNIT and len(value) == length <= end - at - 4 and any(value):
            yield from _designator(kind, value)
        at += 4 + length


def _designator(kind: int, value: bytes) -> Iterator[str]:
    if kind == _NAA and len(value) in (8, 16):
        yield f"naa.{value.hex()}"
    elif kind == _EUI64 and len(value) in (8, 12, 16):
        yield f"eui.{value.hex()}"
    elif kind in (_NAME, _T10):
        text = "_".join(value.rstrip(b"\0").decode("ascii", "backslashreplace").split())
        if kind == _NAME and text.startswith(("iqn.", "naa.", "eui.")):
            yield text if text.startswith("iqn.") else text.lower()
        elif kind == _T10 and len(text) > 8:  # the vendor alone names no disk
            yield f"t10.{text}"
