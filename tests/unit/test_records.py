"""What lies under the keys can be read back, and what cannot be read is nobody's for free."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcdlock.errors import CorruptRecord, NewerFormat
from etcdlock.keyspace import Keyspace
from etcdlock.model import (
    DomainId,
    DomainRecord,
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
)
from etcdlock.ports import KeyValue
from etcdlock.records import (
    decode_contract,
    decode_domain,
    decode_first,
    decode_obituary,
    decode_resource,
    decode_session,
    encode_domain,
    encode_obituary,
    encode_resource,
    encode_session,
)
from tests.unit.given import DOMAIN_RECORDS, NUMBERS, OBITUARIES, RESOURCE_RECORDS, SESSION_RECORDS

KEYS = Keyspace()
DISK = Resource("path", "/san/x", Mode.EXCLUSIVE, "/san/x")
OWNER = SessionRef("a", "s1")
DOMAIN = DomainRecord(
    DomainId(UUID(int=1), "vm1"), OWNER, Machine("b", "m"), LockState.HELD, 7, 70, (DISK,), "r1", 5, "2026-01-01"
)
DOMAIN_KEY = KEYS.domain(DOMAIN.domain.uuid)

Decode = Callable[[KeyValue], object]

WRITTEN: list[tuple[Decode, bytes]] = [
    (decode_domain, encode_domain(DOMAIN)),
    (decode_resource, encode_resource(ResourceRecord(DOMAIN.domain, DISK))),
    (decode_session, encode_session(SessionRecord(OWNER, Machine("b", "m"), SessionKind.RUN, "1", "::1", "now"))),
    (decode_obituary, encode_obituary(Obituary(OWNER, Proof.SILENCE, "b", "quiet", "now"))),
]
KINDS = pytest.mark.parametrize(("decode", "value"), WRITTEN, ids=["domain", "resource", "session", "obituary"])


def stored(value: bytes, *, key: str = DOMAIN_KEY, revision: int = 9) -> KeyValue:
    return KeyValue(key, value, 3, revision)


@given(DOMAIN_RECORDS, NUMBERS)
def test_a_domain_is_read_as_it_was_written_and_its_token_is_the_revision_unless_it_is_carried(
    record: DomainRecord, revision: int
) -> None:
    found = decode_domain(stored(encode_domain(record), key=KEYS.domain(record.domain.uuid), revision=revision))
    assert found.record == record
    assert found.mod_revision == revision
    assert found.token == (revision if record.token is None else record.token)


@given(RESOURCE_RECORDS)
def test_a_resource_is_read_as_it_was_written(record: ResourceRecord) -> None:
    assert decode_resource(stored(encode_resource(record))).record == record


@given(SESSION_RECORDS)
def test_a_session_is_read_as_it_was_written(record: SessionRecord) -> None:
    assert decode_session(stored(encode_session(record))) == record


@given(OBITUARIES)
def test_an_obituary_is_read_as_it_was_written(record: Obituary) -> None:
    assert decode_obituary(stored(encode_obituary(record))) == record


@pytest.mark.parametrize(
    "garbage",
    [b"", b"{", b"null", b"[]", b"7", b'"text"', b"\xff\xfe", b"[" * 200_000, b'{"v":"1"}', b'{"v":true}', b"{}",
     b'{"v":0}', b'{"v":-1}', b'{"v":1.5}', b'{"v":NaN}', b'{"v":1}'],
    ids=lambda garbage: repr(garbage[:12]),
)
@KINDS
def test_what_is_no_record_is_refused_with_its_key_and_what_to_do(decode: Decode, value: bytes, garbage: bytes) -> None:
    with pytest.raises(CorruptRecord, match=DOMAIN_KEY) as refusal:
        decode(stored(garbage))
    assert refusal.value.key == DOMAIN_KEY
    assert "etcdctl get" in refusal.value.hint


@KINDS
def test_a_record_of_a_later_version_says_that_etcdlock_must_be_upgraded(decode: Decode, value: bytes) -> None:
    with pytest.raises(NewerFormat, match="format version 2") as refusal:
        decode(stored(json.dumps({**json.loads(value), "v": 2, "new": []}).encode()))
    assert "upgrade" in refusal.value.hint


@KINDS
def test_a_record_without_one_of_its_fields_or_with_another_type_there_is_corrupt(decode: Decode, value: bytes) -> None:
    fields = json.loads(value)
    for name in fields.keys() - {"v", "token"}:
        for mended in ({key: kept for key, kept in fields.items() if key != name}, {**fields, name: None}):
            with pytest.raises(CorruptRecord, match=f"field '{name}'"):
                decode(stored(json.dumps(mended).encode()))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), st.data())
def test_whatever_stands_in_a_field_it_is_read_or_refused_but_never_breaks_the_reader(
    anything: Any, data: st.DataObject
) -> None:
    decode, value = data.draw(st.sampled_from(WRITTEN))
    fields = json.loads(value)
    name = data.draw(st.sampled_from(sorted(fields)))
    with contextlib.suppress(CorruptRecord):
        decode(stored(json.dumps({**fields, name: anything}).encode()))


def changed(**fields: object) -> bytes:
    return json.dumps({**json.loads(encode_domain(DOMAIN)), **fields}).encode()


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"state": "running"}, "one of held, parked"),
        ({"domain": {"uuid": "nonsense", "name": "x"}}, "a UUID"),
        ({"domain": {"uuid": str(UUID(int=2)), "name": "x"}}, "its key names"),
        ({"resources": ["x"]}, "a list of objects"),
        ({"resources": [{"lockspace": "l", "name": "n", "mode": "read-only", "path": ""}]}, "a mode that takes a lock"),
        ({"token": None}, "of type int"),
        ({"token": "7"}, "of type int"),
    ],
)
def test_a_domain_that_cannot_be_one_of_ours_is_corrupt(fields: dict[str, object], rule: str) -> None:
    with pytest.raises(CorruptRecord, match=rule):
        decode_domain(stored(changed(**fields)))


def test_a_long_wrong_value_is_shown_only_in_part() -> None:
    with pytest.raises(CorruptRecord) as refusal:
        decode_domain(stored(changed(state="x" * 10_000)))
    assert len(str(refusal.value)) < 300


def test_nothing_found_is_no_record() -> None:
    assert decode_first((), decode_domain) is None
    found = decode_first((stored(encode_domain(DOMAIN)),), decode_domain)
    assert found is not None
    assert found.record == DOMAIN


def test_the_contract_is_read_as_it_stands_and_checked_for_its_version() -> None:
    assert decode_contract(stored(b'{"v":1,"timing":{}}'))["timing"] == {}
    with pytest.raises(NewerFormat):
        decode_contract(stored(b'{"v":2}'))
