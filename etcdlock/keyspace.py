"""Where everything lies in etcd: keys, pure and reversible.

    <prefix>/<cluster>/cluster
    <prefix>/<cluster>/hosts/<host>/<session>
    <prefix>/<cluster>/lost/<host>/<session>
    <prefix>/<cluster>/fencing/<host>
    <prefix>/<cluster>/domains/<uuid>
    <prefix>/<cluster>/resources/<lockspace>/<name>/exclusive
    <prefix>/<cluster>/resources/<lockspace>/<name>/shared/<uuid>

Free text (host, lockspace, name) becomes one segment: percent-encoded, and past 200 bytes a SHA-256 digest; the record
under the key always carries the text itself. A `#` never comes out of percent-encoding, so it marks what is not plain:
`#` alone is the empty text, `#` with 64 hex digits a digest. Different texts therefore never share a segment (up to
SHA-256), and no text can reach into another's folder.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from urllib.parse import quote
from uuid import UUID

from etcdlock.errors import InvalidInput
from etcdlock.model import Mode, Resource, SessionRef
from etcdlock.ports import KeyRange

LONGEST_SEGMENT_BYTES = 200


@functools.lru_cache(maxsize=1024)  # encoding names is most of what building a transaction costs, and they come again
def segment(text: str, /) -> str:
    """One path segment for any text, bytes that are not UTF-8 included (as `os.fsdecode` carries them)."""
    if not text:
        return "#"
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{text!r} is not text that a path or name can hold: {error.reason}") from error
    plain = quote(raw, safe="")
    return plain if len(plain) <= LONGEST_SEGMENT_BYTES else "#" + hashlib.sha256(raw).hexdigest()


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The keys of one cluster."""

    cluster: str = "default"
    prefix: str = "/etcdlock"

    def __post_init__(self) -> None:
        """Refuse a prefix under which two clusters could meet."""
        if not self.prefix.startswith("/") or self.prefix.endswith("/"):
            raise InvalidInput(f"setting prefix: {self.prefix!r} must begin with a slash and not end with one")
        if not self.cluster:
            raise InvalidInput("setting cluster: it must not be empty")

    @property
    def root(self) -> str:
        """Everything of the cluster begins with this."""
        return f"{self.prefix}/{segment(self.cluster)}/"

    @property
    def everything(self) -> KeyRange:
        """All keys of the cluster."""
        return KeyRange(self.root, prefix=True)

    @property
    def contract(self) -> str:
        """The timing contract and cluster rules."""
        return f"{self.root}cluster"

    @property
    def never(self) -> str:
        """A key that nobody ever writes: deleting it makes a transaction that changes nothing pass through Raft."""
        return f"{self.root}never"

    def session(self, ref: SessionRef, /) -> str:
        """A session's key; it lies on the session's lease."""
        return f"{self.root}hosts/{segment(ref.host)}/{segment(ref.session)}"

    def sessions(self, host: str = "", /) -> KeyRange:
        """All session keys of a host, or of all hosts."""
        return KeyRange(f"{self.root}hosts/{segment(host)}/" if host else f"{self.root}hosts/", prefix=True)

    def obituary(self, ref: SessionRef, /) -> str:
        """The proof of a session's end."""
        return f"{self.root}lost/{segment(ref.host)}/{segment(ref.session)}"

    @property
    def obituaries(self) -> KeyRange:
        """All obituaries."""
        return KeyRange(f"{self.root}lost/", prefix=True)

    def fencing(self, host: str, /) -> str:
        """The latest attempt to fence a host."""
        return f"{self.root}fencing/{segment(host)}"

    @property
    def fencings(self) -> KeyRange:
        """The latest attempts for all hosts."""
        return KeyRange(f"{self.root}fencing/", prefix=True)

    def domain(self, uuid: UUID, /) -> str:
        """A domain's lock."""
        return f"{self.root}domains/{uuid}"

    @property
    def domains(self) -> KeyRange:
        """All domains' locks."""
        return KeyRange(f"{self.root}domains/", prefix=True)

    @property
    def resources(self) -> KeyRange:
        """All resources' locks."""
        return KeyRange(f"{self.root}resources/", prefix=True)

    def holders(self, resource: Resource, /) -> KeyRange:
        """Every lock on the resource, in whatever mode."""
        return KeyRange(
            f"{self.root}resources/{segment(resource.lockspace)}/{segment(resource.name)}/", prefix=True
        )

    def rivals(self, resource: Resource, /) -> KeyRange:
        """The locks that keep us from holding the resource in its mode; must be empty before we take it."""
        holders = self.holders(resource)
        return KeyRange(holders.key + "exclusive") if resource.mode is Mode.SHARED else holders

    def resource(self, resource: Resource, /, *, uuid: UUID) -> str:
        """The lock that domain `uuid` has on the resource. Read-only resources have none: a mistake of the caller."""
        holders = self.holders(resource).key
        match resource.mode:
            case Mode.EXCLUSIVE:
                return holders + "exclusive"
            case Mode.SHARED:
                return f"{holders}shared/{uuid}"
            case Mode.READ_ONLY:
                raise ValueError(f"{resource} is read-only: it is not locked")
