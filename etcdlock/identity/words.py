"""The words of disk identities, and how a name or path is shown to a person."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DiskIdentity(StrEnum):
    """The cluster-wide rule by which a path becomes a name."""

    AUTO = "auto"
    PATH = "path"
    MD5 = "md5"


@dataclass(frozen=True, slots=True, order=True)
class ResourceName:
    """What a resource is called on every host."""

    lockspace: str
    name: str

    def __str__(self) -> str:
        return escaped(f"{self.lockspace}:{self.name}")


@dataclass(frozen=True, slots=True)
class Identified:
    """A name, the rule that gave it, and what it was given by: facts in words. A warning says what it rests on."""

    name: ResourceName
    rule: str
    evidence: tuple[str, ...] = ()
    warning: str = ""


def escaped(text: str, /) -> str:
    """The text as a person may see it: control characters, line breaks and undecodable bytes as backslash escapes."""
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def _escape(character: str, /) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
