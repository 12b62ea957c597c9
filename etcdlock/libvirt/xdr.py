"""How values travel in libvirt's protocols: a strict subset of XDR (RFC 4506).

Guaranteed: every value has exactly one form. A reader refuses padding that is not zero, lengths over the bound,
presence marks other than 0 and 1, and bytes left over; so whatever was read is written again byte for byte. No length
is trusted before that many bytes are there. The only exception that leaves this module is `MalformedMessage`.

Paths are bytes to Linux and need not be UTF-8. Strings are carried as `os.fsdecode` does it (`surrogateescape`), so a
name that comes in goes out unchanged. An embedded NUL is refused: a C program would see another, shorter name.
"""

from __future__ import annotations

from uuid import UUID

from etcdlock.errors import MalformedMessage

LONGEST_STRING_BYTES = 65_536
"""libvirt's own bound on every string of its lock protocol."""

UNIT_BYTES = 4
UUID_BYTES = 16


class XdrReader:
    """Reads values from the front of a message's body."""

    def __init__(self, body: bytes, /) -> None:
        self._body = body
        self._at = 0

    def u32(self) -> int:
        """An unsigned integer."""
        return int.from_bytes(self._take(UNIT_BYTES))

    def i32(self) -> int:
        """A signed integer."""
        return int.from_bytes(self._take(UNIT_BYTES), signed=True)

    def uuid(self) -> UUID:
        """Sixteen bytes as they are."""
        return UUID(bytes=self._take(UUID_BYTES))

    def string(self) -> str:
        """A counted string, padded with zeros."""
        length = self.u32()
        if length > LONGEST_STRING_BYTES:
            raise MalformedMessage(f"a string of {length} bytes; at most {LONGEST_STRING_BYTES} are allowed")
        content = self._take(length)
        if any(self._take(-length % UNIT_BYTES)):
            raise MalformedMessage("a string is padded with other bytes than zero")
        if 0 in content:
            raise MalformedMessage("a string has a NUL byte in it")
        return content.decode("utf-8", "surrogateescape")

    def present(self) -> bool:
        """Whether an optional value follows."""
        mark = self.u32()
        if mark > 1:
            raise MalformedMessage(f"presence mark {mark}; only 0 and 1 are allowed")
        return mark == 1

    def optional_string(self) -> str | None:
        """A string that may be absent."""
        return self.string() if self.present() else None

    def finish(self) -> None:
        """Nothing may be left."""
        left = len(self._body) - self._at
        if left:
            raise MalformedMessage(f"{left} bytes left over at the end")

    def _take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._body):
            raise MalformedMessage(f"ends {end - len(self._body)} bytes too early")
        taken = self._body[self._at : end]
        self._at = end
        return taken


def pack_u32(number: int, /) -> bytes:
    """An unsigned integer."""
    if not 0 <= number < 2**32:
        raise MalformedMessage(f"{number} does not fit into an unsigned 32-bit integer")
    return number.to_bytes(UNIT_BYTES)


def pack_i32(number: int, /) -> bytes:
    """A signed integer."""
    if not -(2**31) <= number < 2**31:
        raise MalformedMessage(f"{number} does not fit into a signed 32-bit integer")
    return number.to_bytes(UNIT_BYTES, signed=True)


def pack_uuid(uuid: UUID, /) -> bytes:
    """Sixteen bytes as they are."""
    return uuid.bytes


def pack_string(text: str, /) -> bytes:
    """A counted string, padded with zeros."""
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise MalformedMessage(f"text that stands for no bytes: {error.reason} at character {error.start}") from None
    if len(content) > LONGEST_STRING_BYTES:
        raise MalformedMessage(f"a string of {len(content)} bytes; at most {LONGEST_STRING_BYTES} are allowed")
    if 0 in content:
        raise MalformedMessage("a string has a NUL byte in it")
    return pack_u32(len(content)) + content + bytes(-len(content) % UNIT_BYTES)


def pack_optional_string(text: str | None, /) -> bytes:
    """A string that may be absent."""
    return pack_u32(0) if text is None else pack_u32(1) + pack_string(text)
