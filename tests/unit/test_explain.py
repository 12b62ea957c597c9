"""A refusal names the resource, the holder, its domain, since when, and what to do or how long to wait."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from etcdlock.explain import describe_blocker, describe_blockers, describe_proof
from etcdlock.model import Blocker, DomainId, LockState, Mode, Proof, Resource, SessionRef
from etcdlock.timing import Timing

DISK = Resource("path", "/san/x", Mode.EXCLUSIVE, "/san/x")
HELD = Blocker(
    domain=DomainId(UUID(int=1), "vm1"),
    resource=DISK,
    owner=SessionRef("a", "s"),
    state=LockState.HELD,
    since="2020-02-03T04:05:06+00:00",
    token=7,
    alive=True,
)


def said(blocker: Blocker) -> str:
    return describe_blocker(blocker, timing=Timing())


def test_a_disk_held_by_a_living_host_says_to_stop_or_migrate_its_domain_there() -> None:
    assert said(HELD) == (
        "disk /san/x is held by domain vm1 on host a since 2020-02-03 04:05:06 (token 7); "
        "host a is alive: stop or migrate vm1 there"
    )


def test_the_domain_itself_is_named_once() -> None:
    assert said(replace(HELD, resource=None)).startswith("domain vm1 is held on host a since")


def test_a_parked_domain_is_called_suspended() -> None:
    assert "suspended there" in said(replace(HELD, state=LockState.PARKED))


def test_a_silent_host_says_how_long_to_wait_and_what_an_operator_can_do() -> None:
    text = said(replace(HELD, alive=False))
    assert "can be taken over 25 s after that was first seen" in text
    assert "--wait 36" in text
    assert "etcdlock break a" in text


def test_where_silence_is_no_proof_waiting_is_not_advised() -> None:
    text = describe_blocker(replace(HELD, alive=False), timing=Timing(), needs="fence")
    assert "--wait" not in text
    assert "etcdlock break a" in text


def test_a_host_proven_dead_says_that_it_can_be_taken_over_now() -> None:
    assert "proven dead (operator): it can be taken over now" in said(replace(HELD, alive=False, proof=Proof.OPERATOR))


def test_a_lock_that_no_record_accounts_for_says_so() -> None:
    text = said(Blocker(domain=HELD.domain, resource=DISK))
    assert str(HELD.domain.uuid) in text
    assert "nobody takes it for free" in text


@pytest.mark.parametrize("hostile", ["two\nlines", "\x1b[31mred", "\udcff bytes"])
def test_other_peoples_names_reach_the_terminal_escaped(hostile: str) -> None:
    blocker = replace(
        HELD,
        domain=DomainId(UUID(int=1), hostile),
        resource=replace(DISK, path=hostile),
        owner=SessionRef(hostile, "s"),
        since=hostile,
    )
    for text in (said(blocker), said(replace(blocker, alive=False)), said(Blocker(blocker.domain, blocker.resource))):
        assert text.isprintable()
        text.encode("utf-8")


@pytest.mark.parametrize(("since", "shown"), [(None, "an unknown time"), ("yesterday", "yesterday")])
def test_a_time_that_is_missing_or_odd_is_shown_as_it_is(since: str | None, shown: str) -> None:
    assert f"since {shown}" in said(replace(HELD, since=since))


def test_several_blockers_are_one_line_each() -> None:
    assert len(describe_blockers((HELD, HELD, HELD), timing=Timing()).splitlines()) == 3


def test_every_proof_has_its_words() -> None:
    assert len({describe_proof(proof) for proof in Proof}) == len(Proof)
