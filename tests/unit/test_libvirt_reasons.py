"""What virsh shows to whoever is refused a lock: who has it, and what to do next, on one line that fits."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from etcdlock.errors import HeldElsewhere
from etcdlock.explain import describe_blockers
from etcdlock.libvirt.reasons import LONGEST_REASON, explain, refusal
from etcdlock.model import Blocker, DomainId, LockState, Mode, Owner, Resource, SessionRef
from etcdlock.timing import Timing

DISK = Resource("path", "/san/vm1", Mode.EXCLUSIVE, "/san/vm1")
ON_A = Blocker(
    domain=DomainId(UUID(int=1), "vm1"),
    resource=DISK,
    owner=SessionRef("a", "s"),
    state=LockState.PARKED,
    since="2020-02-03T12:03:00+00:00",
    token=7,
    alive=True,
)
ASKS = Owner(DomainId(UUID(int=2), "vm2"), 42)


def held(*blockers: Blocker, hint: str = "") -> HeldElsewhere:
    return HeldElsewhere(describe_blockers(blockers, timing=Timing()), blockers=blockers, hint=hint)


def test_a_refusal_ends_with_the_command_that_tells_more_of_the_disk() -> None:
    assert refusal(held(ON_A), name="/san/vm1", owner=ASKS).message == (
        "resource busy: disk /san/vm1 is held by domain vm1 on host a since 2020-02-03 12:03:00 "
        "(suspended there, token 7); host a is alive: stop or migrate vm1 there; see 'etcdlock inquire --disk /san/vm1'"
    )


@pytest.mark.parametrize("resource", [None, replace(DISK, path="")], ids=["the domain itself", "known by a digest"])
def test_what_has_no_path_is_asked_for_by_its_domain(resource: Resource | None) -> None:
    assert explain(held(replace(ON_A, resource=resource))).endswith("; see 'etcdlock inquire vm1'")


def test_a_hint_that_is_given_is_not_replaced() -> None:
    assert explain(held(ON_A, hint="wait a little")).endswith("; wait a little")


@pytest.mark.parametrize("length", [100, 400, 4000])
def test_however_long_the_names_are_the_line_fits_and_the_command_can_be_typed(length: int) -> None:
    blocker = replace(ON_A, resource=replace(DISK, path="/san/" + "x" * length))
    told = explain(held(*[blocker] * 9))
    assert len(told) <= LONGEST_REASON
    assert told.endswith((f"inquire --disk /san/{'x' * length}'", "; see 'etcdlock status'"))


def test_a_name_with_a_line_break_does_not_break_the_line() -> None:
    blocker = replace(ON_A, resource=replace(DISK, path="/san/a\nb"))
    assert "\n" not in explain(held(blocker))
