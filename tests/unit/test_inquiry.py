"""Who stands in the way, and whose end an operator may declare."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etcdlock.errors import InvalidInput, SessionAlive
from etcdlock.inquiry import Question, answer, asked, sessions_to_break
from etcdlock.model import Mode, SessionRef
from etcdlock.survey import Survey
from tests.unit.records_in_etcd import ALICE, BOB, CAROL, DISK, ISO, KEYS, OTHER, VM, domain, obituary, session, survey

HELD = survey(session(ALICE), domain(VM, ALICE, DISK, ISO))


@pytest.mark.parametrize("text", ["vm", str(VM.uuid), str(VM.uuid).upper()])
def test_a_domain_is_found_by_name_and_by_uuid(text: str) -> None:
    found = answer(HELD, asked(text), keys=KEYS)
    assert [(blocker.owner, blocker.token, blocker.alive) for blocker in found.blockers] == [(ALICE, 7, True)]


def test_a_name_that_no_lock_knows_is_free_unless_a_lock_cannot_be_read() -> None:
    assert answer(HELD, asked("nobody"), keys=KEYS).blockers == ()
    unread = survey({KEYS.domain(OTHER.uuid): b"?"})
    assert [item.key for item in answer(unread, asked("nobody"), keys=KEYS).unreadable] == [KEYS.domain(OTHER.uuid)]
    assert answer(unread, asked(str(VM.uuid)), keys=KEYS).unreadable == ()


@pytest.mark.parametrize(
    ("wanted", "blocked"),
    [
        (DISK, True),
        (replace(DISK, mode=Mode.SHARED), True),
        (replace(DISK, mode=Mode.READ_ONLY), False),
        (ISO, False),
        (replace(ISO, mode=Mode.EXCLUSIVE), True),
        (replace(DISK, name="/san/y"), False),
    ],
)
def test_a_disk_is_held_if_a_lock_rules_out_the_wanted_mode(wanted: object, blocked: bool) -> None:
    question = Question("disk", resources=(wanted,))  # type: ignore[arg-type]
    assert bool(answer(HELD, question, keys=KEYS).blockers) is blocked


def test_a_domain_with_all_it_needs_is_blocked_by_every_other_holder_once() -> None:
    found = survey(session(ALICE), domain(VM, ALICE, DISK), domain(OTHER, ALICE, ISO))
    question = Question("vm", uuid=VM.uuid, resources=(DISK, replace(ISO, mode=Mode.EXCLUSIVE)))
    blockers = answer(found, question, keys=KEYS).blockers
    assert [(blocker.domain, blocker.resource) for blocker in blockers] == [(VM, None), (OTHER, ISO)]


def test_a_disk_whose_domain_does_not_list_it_is_held_by_nobody_known() -> None:
    found = survey(domain(VM, ALICE, DISK, listed=False))
    (blocker,) = answer(found, Question("x", resources=(DISK,)), keys=KEYS).blockers
    assert (blocker.domain, blocker.owner) == (VM, None)


def test_break_means_every_session_of_the_host_that_is_silent_and_named_by_a_lock() -> None:
    found = survey(domain(VM, BOB, DISK), domain(OTHER, SessionRef("bob", "bob-2"), ISO), obituary(BOB))
    assert sessions_to_break(found, "bob") == (SessionRef("bob", "bob-2"),)
    assert sessions_to_break(found, "bob/bob-1") == ()


def test_break_refuses_a_host_that_lives_and_names_the_sessions_that_do_not() -> None:
    found = survey(session(BOB), domain(VM, BOB, DISK), domain(OTHER, SessionRef("bob", "bob-2"), ISO))
    with pytest.raises(SessionAlive, match="bob/bob-1") as refused:
        sessions_to_break(found, "bob")
    assert "bob/bob-2" in refused.value.hint
    with pytest.raises(SessionAlive):
        sessions_to_break(found, "bob/bob-1")
    assert sessions_to_break(found, "bob/bob-2") == (SessionRef("bob", "bob-2"),)


@pytest.mark.parametrize("found", [survey(), survey(domain(VM, CAROL, DISK))])
def test_break_does_not_know_a_host_that_the_cluster_has_never_heard_of(found: Survey) -> None:
    with pytest.raises(InvalidInput, match="no host or session 'bob'"):
        sessions_to_break(found, "bob")
    with pytest.raises(InvalidInput):
        sessions_to_break(found, "carol/never")
