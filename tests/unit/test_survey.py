"""What is read from a cluster's keys: all of it, with what is stale or wrong marked."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcdlock.model import LockState, Mode, SessionRef
from etcdlock.survey import LeftoverKind, Standing, Survey, Takeover
from tests.unit.records_in_etcd import ALICE, BOB, CAROL, DISK, ISO, KEYS, OTHER, VM, domain, obituary, session, survey


def kinds(found: Survey) -> list[tuple[LeftoverKind, str]]:
    return [(item.kind, item.key) for item in found.leftovers]


def test_a_cluster_in_good_order_has_no_leftovers() -> None:
    found = survey(session(ALICE), domain(VM, ALICE, DISK, ISO), domain(OTHER, ALICE, ISO))
    assert found.leftovers == ()
    assert found.stale_locks == ()
    assert [(view.ref, view.standing, view.locks) for view in found.sessions] == [(ALICE, Standing.ALIVE, 2)]
    assert [lock.stored.record.domain for lock in found.locks] == [OTHER, VM]
    assert found.revision == 99


def test_a_lock_is_stale_once_its_session_has_no_key_and_the_proof_is_shown_with_it() -> None:
    found = survey(session(ALICE), domain(VM, BOB, DISK), domain(OTHER, CAROL, ISO), obituary(CAROL))
    standings = {lock.stored.record.owner: (lock.stale, lock.standing, lock.obituary is None) for lock in found.locks}
    assert standings == {BOB: (True, Standing.SILENT, True), CAROL: (True, Standing.DEAD, False)}
    assert found.hosts == ("alice", "bob", "carol")


@pytest.mark.parametrize(
    ("parts", "state", "needs", "expected"),
    [
        ([session(BOB)], LockState.HELD, "silence", Takeover.NO),
        ([session(BOB)], LockState.PARKED, "silence", Takeover.NO),
        ([], LockState.HELD, "silence", Takeover.AFTER_SILENCE),
        ([], LockState.HELD, "fence", Takeover.AFTER_CONFIRMATION),
        ([], LockState.PARKED, "silence", Takeover.AFTER_SILENCE),
        ([], LockState.PARKED, "fence", Takeover.AFTER_CONFIRMATION),
        ([obituary(BOB)], LockState.PARKED, "silence", Takeover.NOW),
        ([obituary(BOB)], LockState.HELD, "fence", Takeover.NOW),
    ],
)
def test_whether_a_lock_may_be_taken_over_follows_from_key_proof_and_rule_whether_it_is_parked_or_not(
    parts: list[dict[str, bytes]], state: LockState, needs: str, expected: Takeover
) -> None:
    (lock,) = survey(*parts, domain(VM, BOB, DISK, state=state)).locks
    assert lock.takeover(needs=needs) is expected


@pytest.mark.parametrize("key", [KEYS.domain(OTHER.uuid), KEYS.session(BOB), KEYS.obituary(BOB), KEYS.contract])
@pytest.mark.parametrize(("value", "kind"), [(b"\xff", LeftoverKind.CORRUPT), (b'{"v":2}', LeftoverKind.NEWER)])
def test_a_record_that_cannot_be_read_is_shown_and_hides_nothing(key: str, value: bytes, kind: LeftoverKind) -> None:
    if key == KEYS.contract and kind is LeftoverKind.CORRUPT:
        value = b"[]"
    found = survey({key: value}, session(ALICE), domain(VM, ALICE, DISK))
    assert kinds(found) == [(kind, key)]
    assert [item.key for item in found.unreadable] == [key]
    assert len(found.locks) == len(found.sessions) == 1


def test_records_that_disagree_are_shown_from_both_sides() -> None:
    stray, complete = domain(VM, ALICE, DISK, listed=False), domain(OTHER, ALICE, ISO)
    missing = {key: value for key, value in complete.items() if "/domains/" in key}
    assert kinds(survey(session(ALICE), stray, missing)) == [
        (LeftoverKind.STRAY_RESOURCE, KEYS.resource(DISK, uuid=VM.uuid)),
        (LeftoverKind.MISSING_RESOURCE, KEYS.resource(ISO, uuid=OTHER.uuid)),
    ]


def test_a_disk_that_two_domains_list_is_shown_for_the_one_that_has_not_got_it() -> None:
    found = survey(session(ALICE), domain(OTHER, ALICE, DISK), domain(VM, ALICE, DISK))
    (leftover,) = found.leftovers
    assert (leftover.kind, leftover.key) == (LeftoverKind.MISSING_RESOURCE, KEYS.resource(DISK, uuid=VM.uuid))
    assert "domain other lists it" in leftover.text


def test_a_record_under_anothers_key_and_a_key_of_no_kind_are_shown() -> None:
    (value,) = session(ALICE).values()
    found = survey({KEYS.session(BOB): value, f"{KEYS.root}other": b"x"})
    assert kinds(found) == [(LeftoverKind.MISPLACED, KEYS.session(BOB)), (LeftoverKind.UNKNOWN, f"{KEYS.root}other")]
    assert found.sessions == ()


@pytest.mark.parametrize(("field", "text"), [("mode", Mode.READ_ONLY), ("name", "half of a pair: \ud800")])
def test_a_domain_that_lists_what_no_key_can_hold_is_shown_as_unreadable(field: str, text: str) -> None:
    key = KEYS.domain(VM.uuid)
    value = json.loads(domain(VM, ALICE, DISK)[key])
    value["resources"][0][field] = text
    assert [item.key for item in survey(session(ALICE), {key: json.dumps(value).encode()}).unreadable] == [key]


def test_an_obituary_is_needed_as_long_as_a_lock_names_its_session_or_one_cannot_be_read() -> None:
    idle = (LeftoverKind.IDLE_OBITUARY, KEYS.obituary(BOB))
    assert kinds(survey(obituary(BOB), domain(VM, BOB, DISK))) == []
    assert kinds(survey(obituary(BOB))) == [idle]
    assert idle not in kinds(survey(obituary(BOB), {KEYS.domain(OTHER.uuid): b"?"}))


def test_an_obituary_of_a_session_that_lives_is_no_harmless_leftover() -> None:
    (leftover,) = survey(session(BOB), obituary(BOB)).leftovers
    assert leftover.kind is LeftoverKind.LIVING_DEAD
    assert not leftover.kind.harmless


VALUES = st.one_of(
    st.binary(max_size=60),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5), lambda inner: st.dictionaries(st.text(max_size=8), inner)
    ).map(lambda value: json.dumps(value).encode()),
    st.sampled_from([*domain(VM, ALICE, DISK, ISO).values(), *session(BOB).values(), *obituary(CAROL).values()]),
)
PLACES = st.sampled_from(
    [KEYS.contract, KEYS.root, *domain(VM, ALICE, DISK, ISO), *session(BOB), *obituary(CAROL), f"{KEYS.root}domains/x"]
)


@given(st.dictionaries(PLACES, VALUES, max_size=8))
def test_whatever_lies_there_every_key_is_accounted_for(values: dict[str, bytes]) -> None:
    found = survey(values)
    left = {item.key for item in found.leftovers}
    read = {KEYS.domain(lock.stored.record.domain.uuid) for lock in found.locks}
    read |= {KEYS.session(view.ref) for view in found.sessions if view.record}
    read |= {KEYS.obituary(item.dead) for item in found.obituaries}
    read |= {KEYS.resource(item.record.resource, uuid=item.record.domain.uuid) for item in found.resources}
    read |= {KEYS.contract} if found.contract is not None else set()
    assert values.keys() <= left | read


def test_a_session_of_a_host_with_slashes_keeps_its_name() -> None:
    odd = SessionRef("rack/1", "s")
    assert survey(session(odd)).sessions[0].ref == odd
    assert replace(odd, host="rack").host not in survey(session(odd)).hosts
