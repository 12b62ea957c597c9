"""What lies under the keys: records as JSON with a format version, written and parsed strictly.

A value that is not what it must be raises `CorruptRecord` with its key, and one of a later version `NewerFormat`:
whoever cannot read a lock may not take it for free.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID

from etcdlock.errors import CorruptRecord, NewerFormat
from etcdlock.escalation import Action
from etcdlock.model import (
    DomainId,
    DomainRecord,
    Fencing,
    FencingState,
    Handover,
    LockState,
    Machine,
    Mode,
    Obituary,
    Proof,
    Resource,
    ResourceRecord,
    SessionKind,
    SessionRecord,
    SessionRef,
    StoredDomain,
    StoredFencing,
    StoredResource,
)
from etcdlock.ports import KeyValue

FORMAT_VERSION = 1

E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object being read; every miss names the key in etcd and the field."""

    key: str
    values: Mapping[str, Any]

    @classmethod
    def parse(cls, stored: KeyValue) -> Fields:
        """Decode a stored value and check its format version."""
        try:
            values = json.loads(stored.value)
        except (ValueError, RecursionError) as error:
            raise CorruptRecord(f"{stored.key}: not JSON ({error})", key=stored.key, hint=_CORRUPT_HINT) from error
        if not isinstance(values, dict):
            raise CorruptRecord(f"{stored.key}: not a JSON object", key=stored.key, hint=_CORRUPT_HINT)
        fields = cls(stored.key, values)
        version = fields.number("v")
        if version < 1:
            raise fields.wrong("v", "a format version")
        if version > FORMAT_VERSION:
            raise NewerFormat(
                f"{stored.key}: format version {version}, this etcdlock reads up to {FORMAT_VERSION}",
                key=stored.key,
                hint="upgrade etcdlock on this host",
            )
        return fields

    def text(self, name: str) -> str:
        value: str = self._typed(name, str)
        return value

    def number(self, name: str) -> int:
        value: int = self._typed(name, int)
        if isinstance(value, bool):
            raise self.wrong(name, "a number")
        return value

    def choice(self, name: str, choices: type[E]) -> E:
        try:
            return choices(self.text(name))
        except ValueError:
            raise self.wrong(name, "one of " + ", ".join(choices)) from None

    def uuid(self, name: str) -> UUID:
        try:
            return UUID(self.text(name))
        except ValueError:
            raise self.wrong(name, "a UUID") from None

    def inner(self, name: str) -> Fields:
        return Fields(self.key, self._typed(name, dict))

    def each(self, name: str) -> tuple[Fields, ...]:
        found = self._typed(name, list)
        if not all(isinstance(item, dict) for item in found):
            raise self.wrong(name, "a list of objects")
        return tuple(Fields(self.key, item) for item in found)

    def texts(self, name: str) -> tuple[str, ...]:
        found = self._typed(name, list)
        if not all(isinstance(item, str) for item in found):
            raise self.wrong(name, "a list of texts")
        return tuple(found)

    def wrong(self, name: str, rule: str) -> CorruptRecord:
        shown = repr(self.values.get(name, "missing"))[:80]
        return CorruptRecord(f"{self.key}: field {name!r} is {shown}, must be {rule}", key=self.key, hint=_CORRUPT_HINT)

    def _typed(self, name: str, kind: type[Any]) -> Any:
        value = self.values.get(name)
        if not isinstance(value, kind):
            raise self.wrong(name, f"of type {kind.__name__}")
        return value


_CORRUPT_HINT = (
    "nobody takes this for free; look at it with etcdctl get, and delete it only if its guest is known to be gone"
)


def _encode(**values: Any) -> bytes:
    return json.dumps({"v": FORMAT_VERSION, **values}, separators=(",", ":")).encode()


def decode_contract(stored: KeyValue, /) -> Mapping[str, Any]:
    """The cluster's contract as it stands; raises `CorruptRecord`."""
    return Fields.parse(stored).values


def encode_session(record: SessionRecord, /) -> bytes:
    """Value of a session's key."""
    return _encode(
        host=record.ref.host,
        session=record.ref.session,
        **_machine(record.machine),
        kind=record.kind,
        version=record.version,
        address=record.address,
        since=record.since,
        **({"ttl": record.ttl_seconds} if record.ttl_seconds else {}),
    )


def decode_session(stored: KeyValue, /) -> SessionRecord:
    """Inverse of `encode_session`; raises `CorruptRecord`."""
    fields = Fields.parse(stored)
    return SessionRecord(
        ref=_ref(fields),
        machine=Machine(boot=fields.text("boot"), machine=fields.text("machine")),
        kind=fields.choice("kind", SessionKind),
        version=fields.text("version"),
        address=fields.text("address"),
        since=fields.text("since"),
        ttl_seconds=fields.number("ttl") if "ttl" in fields.values else 0,
    )


def encode_obituary(record: Obituary, /) -> bytes:
    """Value of an obituary."""
    return _encode(
        host=record.dead.host,
        session=record.dead.session,
        proof=record.proof,
        by=record.by,
        reason=record.reason,
        when=record.when,
    )


def decode_obituary(stored: KeyValue, /) -> Obituary:
    """Inverse of `encode_obituary`; raises `CorruptRecord`."""
    fields = Fields.parse(stored)
    return Obituary(
        dead=_ref(fields),
        proof=fields.choice("proof", Proof),
        by=fields.text("by"),
        reason=fields.text("reason"),
        when=fields.text("when"),
    )


def encode_domain(record: DomainRecord, /) -> bytes:
    """Value of a domain's lock."""
    token = {} if record.token is None else {"token": record.token}
    run = {"run": record.run} if record.run else {}
    chosen = {"on_session_lost": record.on_session_lost} if record.on_session_lost else {}
    taken_over = {"taken_over": [_resource(item) for item in record.taken_over]} if record.taken_over else {}
    return _encode(
        host=record.owner.host,
        session=record.owner.session,
        **_machine(record.machine),
        domain=_domain(record.domain),
        state=record.state,
        pid=record.pid,
        pid_start=record.pid_start,
        resources=[_resource(resource) for resource in record.resources],
        request=record.request,
        since=record.since,
        **token,
        **run,
        **chosen,
        **taken_over,
        **({"history": [_handover(item) for item in record.history]} if record.history else {}),
    )


def decode_domain(stored: KeyValue, /) -> StoredDomain:
    """Inverse of `encode_domain`, with the revision; raises `CorruptRecord`."""
    fields = Fields.parse(stored)
    domain = _read_domain(fields.inner("domain"))
    if not stored.key.endswith(f"/{domain.uuid}"):  # what compares this record would compare another key
        raise fields.wrong("domain", "the one that its key names")
    record = DomainRecord(
        domain=domain,
        owner=_ref(fields),
        machine=Machine(boot=fields.text("boot"), machine=fields.text("machine")),
        state=fields.choice("state", LockState),
        pid=fields.number("pid"),
        pid_start=fields.number("pid_start"),
        resources=tuple(_read_resource(item) for item in fields.each("resources")),
        request=fields.text("request"),
        token=fields.number("token") if "token" in fields.values else None,
        since=fields.text("since"),
        run=fields.text("run") if "run" in fields.values else "",
        on_session_lost=fields.choice("on_session_lost", Action) if "on_session_lost" in fields.values else None,
        taken_over=tuple(map(_read_resource, fields.each("taken_over") if "taken_over" in fields.values else ())),
        history=tuple(map(_read_handover, fields.each("history") if "history" in fields.values else ())),
    )
    return StoredDomain(record, stored.mod_revision)


def encode_resource(record: ResourceRecord, /) -> bytes:
    """Value of a resource's lock."""
    return _encode(domain=_domain(record.domain), **_resource(record.resource))


def decode_resource(stored: KeyValue, /) -> StoredResource:
    """Inverse of `encode_resource`, with the revision; raises `CorruptRecord`."""
    fields = Fields.parse(stored)
    record = ResourceRecord(domain=_read_domain(fields.inner("domain")), resource=_read_resource(fields))
    return StoredResource(record, stored.mod_revision)


def encode_fencing(record: Fencing, /) -> bytes:
    """Value of a host's fencing record."""
    claimant = record.claimant
    return _encode(
        host=record.host,
        sessions=list(record.sessions),
        by=record.by,
        reason=record.reason,
        attempt=record.attempt,
        state=record.state,
        detail=record.detail,
        when=record.when,
        **({"claimant": {"host": claimant.host, "session": claimant.session}} if claimant else {}),
    )


def decode_fencing(stored: KeyValue, /) -> StoredFencing:
    """Inverse of `encode_fencing`, with the revision; raises `CorruptRecord`."""
    fields = Fields.parse(stored)
    record = Fencing(
        host=fields.text("host"),
        sessions=fields.texts("sessions"),
        by=fields.text("by"),
        reason=fields.text("reason"),
        attempt=fields.number("attempt"),
        state=fields.choice("state", FencingState),
        detail=fields.text("detail"),
        when=fields.text("when"),
        claimant=_ref(fields.inner("claimant")) if "claimant" in fields.values else None,
    )
    return StoredFencing(record, stored.mod_revision)


R = TypeVar("R")


def decode_first(found: tuple[KeyValue, ...], decode: Callable[[KeyValue], R], /) -> R | None:
    """The record under a key that was read by itself, or None where there is none."""
    return decode(found[0]) if found else None


def _machine(machine: Machine) -> dict[str, str]:
    return {"boot": machine.boot, "machine": machine.machine}


def _ref(fields: Fields) -> SessionRef:
    return SessionRef(fields.text("host"), fields.text("session"))


def _domain(domain: DomainId) -> dict[str, str]:
    return {"uuid": str(domain.uuid), "name": domain.name}


def _read_domain(fields: Fields) -> DomainId:
    return DomainId(fields.uuid("uuid"), fields.text("name"))


def _handover(item: Handover) -> dict[str, Any]:
    return {
        "domain": _domain(item.domain),
        "host": item.owner.host,
        "session": item.owner.session,
        "token": item.token,
        "why": item.why,
        "when": item.when,
    }


def _read_handover(fields: Fields) -> Handover:
    return Handover(
        domain=_read_domain(fields.inner("domain")),
        owner=_ref(fields),
        token=fields.number("token"),
        why=fields.text("why"),
        when=fields.text("when"),
    )


def _resource(resource: Resource) -> dict[str, str]:
    return {"lockspace": resource.lockspace, "name": resource.name, "mode": resource.mode, "path": resource.path}


def _read_resource(fields: Fields) -> Resource:
    mode = fields.choice("mode", Mode)
    if mode is Mode.READ_ONLY:
        raise fields.wrong("mode", "a mode that takes a lock")
    return Resource(fields.text("lockspace"), fields.text("name"), mode, fields.text("path"))
