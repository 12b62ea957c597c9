"""What is told of a guest or a host, from keys and a record written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from etcdlock.chronicle import derived, tell
from etcdlock.errors import InvalidInput, Unreachable
from etcdlock.model import Proof
from etcdlock.timing import Timing
from tests.unit.records_in_etcd import ALICE, BOB, DISK, OTHER, VM, domain, obituary, session, survey

TIMING = Timing()


def line(second: float, event: str, level: str = "info", **fields: object) -> Mapping[str, Any]:
    return {"at": f"2026-01-01T00:00:{second:06.3f}+00:00", "event": event, "level": level, "fields": fields}


def known(second: float, who: str, pid: int) -> Mapping[str, Any]:
    return line(second, "guest_known", "debug", domain=who, uuid=f"uuid of {who}", pid=pid)


def told(asked: str, *record: Mapping[str, Any], host: str = "alice") -> list[tuple[str, str]]:
    document = tell(asked, None, record, host=host, timing=TIMING, needs="silence")
    return [(event["event"], event["at"][17:23]) for event in document["events"]]


def test_events_of_a_pid_belong_to_the_guest_that_had_it_then() -> None:
    record = [
        known(1, "vm", 7), line(2, "guest_stopped", "error", pid=7), line(3, "guest_gone", domain="vm", pid=7),
        known(4, "other", 7), line(5, "guard_strikes", "error", guest="7:70"), line(6, "released", domain="other"),
    ]  # fmt: skip
    assert [name for name, _ in told("vm", *record)] == ["guest_known", "guest_stopped", "guest_gone"]
    assert [name for name, _ in told("other", *record)] == ["guest_known", "guard_strikes", "released"]
    assert told("uuid of vm", *record) == told("vm", *record)


def test_what_happened_to_the_host_at_that_time_belongs_to_the_guests_story_and_no_other_guest_does() -> None:
    record = [
        known(1, "vm", 7), known(2, "other", 8), line(10, "heartbeat"), line(12, "heartbeat_failed", "warning"),
        line(28, "guest_stopped", "error", pid=7), line(29, "refused", domain="third"),
    ]  # fmt: skip
    assert told("vm", *record) == [
        ("guest_known", "01.000"), ("heartbeat", "10.000"), ("heartbeat_failed", "12.000"),
        ("session_suspect", "13.500"), ("guest_stopped", "28.000"),
    ]  # fmt: skip


def test_a_heartbeat_that_came_late_but_in_time_makes_nobody_suspect() -> None:
    record = [line(10, "heartbeat"), line(12, "heartbeat_failed", "warning"), line(13, "heartbeat_back", "warning")]
    assert [item["event"] for item in derived(record, timing=TIMING)] == [item["event"] for item in record]


def test_what_a_guard_says_tells_when_the_session_was_proven_last() -> None:
    record = [line(30, "guard_strikes", "error", pid=7, session="s", proven_seconds_ago=18.5)]
    assert [(item["event"], item["at"][17:23]) for item in derived(record, timing=TIMING)] == [
        ("heartbeat", "11.500"), ("session_suspect", "15.000"), ("guard_strikes", "30.000"),
    ]  # fmt: skip


def test_of_a_host_all_of_its_own_record_is_told_and_of_another_what_names_it() -> None:
    record = [line(1, "agent_ready"), line(2, "session_missing", session="bob/agent-1"), line(3, "fencing", host="bob")]
    assert [name for name, _ in told("alice", *record)] == ["agent_ready", "session_missing", "fencing"]
    assert [name for name, _ in told("bob", *record)] == ["session_missing", "fencing"]
    with pytest.raises(InvalidInput, match="nothing is known of 'carol'"):
        tell("carol", survey(session(ALICE)), record, host="alice", timing=TIMING, needs="silence")


def test_what_etcd_might_know_is_not_called_unknown_while_etcd_is_away() -> None:
    with pytest.raises(Unreachable, match="etcd could not be asked, and this host has nothing on record of 'vm1'"):
        told("vm1", line(1, "agent_ready"))


def test_etcd_tells_of_a_domain_whose_host_is_dead_and_of_that_host() -> None:
    found = survey(session(ALICE), domain(VM, BOB, DISK), domain(OTHER, ALICE), obituary(BOB, Proof.OPERATOR))
    of_domain = tell("vm", found, [], host="alice", timing=TIMING, needs="silence")
    assert of_domain["kind"] == "domain"
    assert of_domain["told"][0].startswith("domain vm is held on host bob since ")
    assert "operator, by bob at " in of_domain["told"][1]
    assert [item["host"] for item in of_domain["obituaries"]] == ["bob"]
    of_host = tell("bob", found, [], host="alice", timing=TIMING, needs="silence")
    assert (of_host["kind"], len(of_host["sessions"])) == ("host", 1)
    assert any("session bob/bob-1 is proven dead: operator" in sentence for sentence in of_host["told"])
