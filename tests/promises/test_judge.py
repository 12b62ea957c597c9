"""The judge sees what it is there to see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.promises.judge import (
    Moment,
    outlived_proofs,
    overlaps,
    shrinking_tokens,
    taken_without_proof,
    torn_locks,
    uncovered,
    undone_too_late,
)
from tests.promises.span import FOR_EVER, Span, called
from tests.promises.world import KEYS, disk, domain

UUID_1 = str(domain(1).uuid)
X, Y = disk("x"), disk("y")
FIRST = Span("a", UUID_1, 7, token=5, began=1.0, ended=10.0, exclusive=frozenset({called(X)}))
SECOND = replace(FIRST, host="b", uuid=str(domain(2).uuid), pid=8, token=9, began=12.0, ended=FOR_EVER)


def record(**changed: Any) -> dict[str, Any]:
    resource = {"lockspace": X.lockspace, "name": X.name, "mode": "exclusive"}
    return {
        "host": "a", "session": "s", "boot": "b", "pid": 7, "state": "held", "mod": 5,
        "domain": {"uuid": UUID_1}, "resources": [resource],
    } | changed  # fmt: skip


def lock(mode: str = "exclusive", uuid: str = UUID_1) -> dict[str, Any]:
    return {"lockspace": X.lockspace, "name": X.name, "mode": mode, "domain": {"uuid": uuid}, "mod": 5}


DOMAIN = KEYS.domain(domain(1).uuid)
PROOF = {f"{KEYS.obituaries.key}a/s": {"session": "s"}}
LOCKED = {DOMAIN: record(), KEYS.resource(X, uuid=domain(1).uuid): lock()}


def moment(instant: float, values: dict[str, Any], *, revision: int = 5) -> Moment:
    return Moment(revision, instant, values)


def test_two_guests_on_one_disk_overlap_unless_one_is_gone_before_the_other_begins_or_both_only_read() -> None:
    assert overlaps([FIRST, SECOND]) == []
    early = replace(SECOND, began=9.9)
    assert len(overlaps([FIRST, early])) == 1
    assert overlaps([FIRST, replace(early, exclusive=frozenset({called(Y)}))]) == []
    assert len(overlaps([FIRST, replace(early, exclusive=frozenset(), uuid=FIRST.uuid)])) == 1
    reader = replace(FIRST, exclusive=frozenset(), shared=frozenset({called(X)}))
    assert overlaps([reader, replace(early, exclusive=frozenset(), shared=frozenset({called(X)}))]) == []
    assert len(overlaps([reader, early])) == 1


def test_a_later_owner_with_a_token_that_is_not_larger_is_seen() -> None:
    assert shrinking_tokens([SECOND, FIRST]) == []
    assert len(shrinking_tokens([replace(SECOND, token=5), FIRST])) == 1
    assert shrinking_tokens([replace(SECOND, token=5, exclusive=frozenset({called(Y)})), FIRST]) == []
    assert shrinking_tokens([replace(SECOND, token=4, added=((called(X), 6),)), FIRST]) == []
    later = replace(FIRST, began=20.0, ended=30.0)
    assert shrinking_tokens([later, FIRST]) == []
    assert len(shrinking_tokens([replace(later, token=4), FIRST])) == 1


def test_a_guest_without_its_lock_is_seen() -> None:
    assert uncovered([FIRST], [moment(0.5, LOCKED)]) == []
    assert uncovered([FIRST], [moment(0.5, LOCKED), moment(10.0, {})]) == []
    for wrong in ({}, {DOMAIN: record(pid=8)}, {DOMAIN: record(resources=[])}, {DOMAIN: record(token=6)},
                  {DOMAIN: record(state="parked")}):  # fmt: skip
        assert len(uncovered([FIRST], [moment(0.5, LOCKED), moment(9.0, wrong)])) == 1
        assert len(uncovered([FIRST], [moment(0.5, wrong)])) == 1


def test_a_guest_that_runs_when_its_session_is_proven_dead_is_seen() -> None:
    assert len(outlived_proofs([FIRST], [moment(9.0, LOCKED | PROOF)])) == 1
    assert outlived_proofs([FIRST], [moment(10.0, LOCKED | PROOF)]) == []
    carried_over = {DOMAIN: record(session="new")}
    assert outlived_proofs([FIRST], [moment(9.0, carried_over | PROOF)]) == []


def test_a_lock_taken_without_a_proof_is_seen() -> None:
    taken = {DOMAIN: record(host="b", session="t", pid=8, mod=6)}
    assert len(taken_without_proof([moment(1.0, LOCKED), moment(2.0, taken, revision=6)])) == 1
    assert taken_without_proof([moment(1.0, LOCKED | PROOF), moment(2.0, taken | PROOF, revision=6)]) == []
    shrunk = {DOMAIN: record(resources=[], mod=6)}
    assert taken_without_proof([moment(1.0, LOCKED), moment(2.0, shrunk, revision=6)]) == []
    robbed = shrunk | {KEYS.domain(domain(2).uuid): record(host="b", domain={"uuid": str(domain(2).uuid)}, mod=6)}
    assert len(taken_without_proof([moment(1.0, LOCKED), moment(2.0, robbed, revision=6)])) == 1
    joined_anew = {DOMAIN: record(session="new", mod=6)}
    assert taken_without_proof([moment(1.0, LOCKED), moment(2.0, joined_anew, revision=6)]) == []


PARKED = {DOMAIN: record(state="parked")}
CLAIMED = {DOMAIN: record(host="b", session="t", pid=8, mod=6)}


def test_a_parked_domain_may_be_claimed_as_a_whole_and_else_only_be_taken_with_a_proof_like_any_other() -> None:
    part = {DOMAIN: record(host="b", session="t", pid=8, mod=6, resources=[])}
    assert taken_without_proof([moment(1.0, PARKED), moment(2.0, CLAIMED, revision=6)]) == []
    assert len(taken_without_proof([moment(1.0, PARKED), moment(2.0, part, revision=6)])) == 1
    assert taken_without_proof([moment(1.0, PARKED | PROOF), moment(2.0, part, revision=6)]) == []


def test_a_parked_guest_may_run_only_if_nobody_has_asked_for_it_and_only_while_its_lock_is_its_own() -> None:
    unasked = replace(FIRST, unasked=True)
    assert uncovered([unasked], [moment(0.5, {DOMAIN: record(state="parked", token=5)})]) == []
    assert len(uncovered([FIRST], [moment(0.5, {DOMAIN: record(state="parked", token=5)})])) == 1
    assert len(uncovered([unasked], [moment(0.5, {DOMAIN: record(host="b", pid=8, token=6)})])) == 1


def test_a_claim_may_be_undone_only_to_the_guest_it_came_from_and_before_its_own_guest_has_run() -> None:
    back = {DOMAIN: record(state="parked", mod=7)}
    history = [moment(1.0, PARKED), moment(2.0, CLAIMED, revision=6), moment(3.0, back, revision=7)]
    assert taken_without_proof(history) == []
    stranger = {DOMAIN: record(state="parked", pid=9, mod=7)}
    assert len(taken_without_proof([*history[:2], moment(3.0, stranger, revision=7)])) == 1
    ran = replace(FIRST, host="b", pid=8, began=2.5)
    assert undone_too_late([replace(ran, began=3.5), replace(ran, uuid=SECOND.uuid)], history) == []
    assert len(undone_too_late([ran], history)) == 1


def test_keys_and_records_that_disagree_and_a_holder_beside_an_exclusive_one_are_seen() -> None:
    assert torn_locks([moment(1.0, LOCKED)]) == []
    assert len(torn_locks([moment(1.0, {DOMAIN: record()})])) == 1
    assert len(torn_locks([moment(1.0, {DOMAIN: record(resources=[])} | dict([list(LOCKED.items())[1]]))])) == 1
    other = domain(2).uuid
    beside = {
        KEYS.domain(other): record(domain={"uuid": str(other)}, resources=[lock("shared")]),
        f"{KEYS.holders(X).key}shared/{other}": lock("shared", str(other)),
    }
    assert len(torn_locks([moment(1.0, LOCKED | beside)])) == 1
