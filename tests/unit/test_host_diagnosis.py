"""What doctor tells of a host: each finding says what, how that is known and what to do, and a sound host has none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etcdlock.cli.diagnosis import Finding, Severity
from etcdlock.cli.host_diagnosis import diagnose_host, locked_processes
from etcdlock.cli.host_facts import HostFacts, SeenGuest, SocketFact
from etcdlock.guard.table import Name
from etcdlock.model import LockState, Mode, Resource, SessionRef
from etcdlock.survey import Survey
from tests.unit.records_in_etcd import ALICE, BOB, DISK, OTHER, VM, domain, session, survey

PROCESS = Name(1, 2)
"""As the records made by hand name it."""
GUEST = SeenGuest(VM, PROCESS, True, (DISK,), "/run/libvirt/qemu/vm.xml")
SOUND = HostFacts(
    hosts=frozenset({"alice"}),
    boot="boot",
    guests=(GUEST,),
    unread=(),
    agent=77,
    api=SocketFact("/run/etcdlock/agent.sock", True, ("etcdlock",)),
    locks=SocketFact("/run/libvirt/virtlockd-sock", True, ("etcdlock",)),
    conf="/etc/libvirt/qemu.conf",
    lock_manager="lockd",
)
LOCKED = survey(session(ALICE), domain(VM, ALICE, DISK))


def findings(facts: HostFacts, found: Survey | None = LOCKED, *, gone: frozenset[Name] = frozenset()) -> list[Finding]:
    made = diagnose_host(facts, found, gone=gone)
    assert all(one.text and one.evidence and one.remedy for one in made)
    return list(made)


def only(facts: HostFacts, found: Survey | None = LOCKED, *, gone: frozenset[Name] = frozenset()) -> Finding:
    (one,) = findings(facts, found, gone=gone)
    return one


def test_a_host_whose_guests_hold_their_locks_has_no_finding() -> None:
    assert findings(SOUND) == []
    assert findings(replace(SOUND, guests=()), survey()) == []


def test_a_host_without_agent_guests_or_libvirt_has_no_finding() -> None:
    nothing = SocketFact("/x", False)
    bare = replace(SOUND, guests=(), agent=0, api=nothing, locks=nothing, conf=None, lock_manager="")
    assert findings(bare, survey()) == []
    assert findings(replace(bare, conf="/etc/libvirt/qemu.conf"), survey()) == []


def test_a_guest_without_a_lock_is_a_fault_and_can_be_attached() -> None:
    one = only(SOUND, survey(session(ALICE)))
    assert one.severity is Severity.FAULT
    assert "guest vm runs and holds no lock" in one.text
    assert one.remedy == "attach it: etcdlock attach vm"
    assert "process 1" in one.evidence
    assert str(VM.uuid) in one.evidence


def test_without_an_agent_a_guest_without_a_lock_needs_the_agent_first() -> None:
    first, second = findings(replace(SOUND, agent=0), survey())
    assert first.remedy == "start the agent, then attach it: etcdlock attach vm"
    assert "no agent runs on this host, and 1 guest(s)" in second.text


def test_a_guest_that_stands_still_without_a_lock_is_worth_a_note() -> None:
    one = only(replace(SOUND, guests=(replace(GUEST, vcpus_run=False),)), survey())
    assert (one.severity, "stands still" in one.text) == (Severity.NOTE, True)


def test_a_guest_whose_lock_another_host_holds_is_told_loudly() -> None:
    one = only(SOUND, survey(session(BOB), domain(VM, BOB, DISK)))
    assert one.severity is Severity.FAULT
    assert "RUNS HERE and host bob HOLDS ITS LOCK" in one.text
    assert "virsh destroy vm here" in one.remedy


def test_a_guest_that_waits_for_its_migration_to_end_is_no_fault() -> None:
    waits = replace(SOUND, guests=(replace(GUEST, vcpus_run=False),))
    assert only(waits, survey(session(BOB), domain(VM, BOB, DISK))).severity is Severity.NOTE


@pytest.mark.parametrize(("holder", "where"), [(BOB, "host bob"), (ALICE, "this host")])
def test_a_guest_whose_disk_another_domain_holds_is_told_loudly(holder: SessionRef, where: str) -> None:
    found = survey(session(ALICE), session(BOB), domain(VM, ALICE), domain(OTHER, holder, DISK))
    one = only(SOUND, found)
    assert one.severity is Severity.FAULT
    assert "disk /san/x of guest vm, which has a process here, is LOCKED BY ANOTHER" in one.text
    assert one.text.endswith(f"domain other on {where}")


@pytest.mark.parametrize(
    ("mine", "theirs", "faults"),
    [(Mode.SHARED, Mode.SHARED, 0), (Mode.SHARED, Mode.EXCLUSIVE, 1), (Mode.EXCLUSIVE, Mode.SHARED, 1)],
)
def test_a_disk_that_both_share_is_no_finding(mine: Mode, theirs: Mode, faults: int) -> None:
    here = replace(SOUND, guests=(replace(GUEST, resources=(replace(DISK, mode=mine),)),))
    found = survey(session(ALICE), session(BOB), domain(VM, ALICE), domain(OTHER, BOB, replace(DISK, mode=theirs)))
    assert len(findings(here, found)) == faults


def test_another_disk_of_another_domain_is_no_finding() -> None:
    other = Resource("path", "/san/y", Mode.EXCLUSIVE, "/san/y")
    assert findings(SOUND, survey(session(ALICE), domain(VM, ALICE, DISK), domain(OTHER, BOB, other))) == []


def test_a_guest_that_is_another_process_than_its_lock_names_is_a_fault() -> None:
    one = only(replace(SOUND, guests=(replace(GUEST, process=Name(1, 3)),)))
    assert (one.severity, "is not the process" in one.text) == (Severity.FAULT, True)
    assert "1:3" in one.evidence
    assert "1:2" in one.evidence


def test_a_guest_that_runs_with_a_parked_lock_is_a_fault_and_one_that_stands_still_is_not() -> None:
    parked = survey(session(ALICE), domain(VM, ALICE, DISK, state=LockState.PARKED))
    assert "runs though its lock is parked" in only(SOUND, parked).text
    assert findings(replace(SOUND, guests=(replace(GUEST, vcpus_run=False),)), parked) == []


def test_a_lock_of_this_host_whose_guest_is_gone_is_worth_a_note() -> None:
    one = only(replace(SOUND, guests=()), gone=frozenset({PROCESS}))
    assert (one.severity, "its guest is gone" in one.text) == (Severity.NOTE, True)
    assert "nothing: the agent gives it back" in one.remedy


def test_a_lock_of_this_host_whose_guest_lives_and_is_nobody_that_libvirt_knows_is_no_finding() -> None:
    assert findings(replace(SOUND, guests=())) == []


def test_a_guest_that_ended_while_etcd_was_looked_at_is_not_told_of() -> None:
    assert findings(SOUND, survey(), gone=frozenset({PROCESS})) == []


@pytest.mark.parametrize("facts", [replace(SOUND, hosts=frozenset({"bob"})), replace(SOUND, boot="later")])
def test_processes_of_other_hosts_and_other_boots_are_not_looked_for_here(facts: HostFacts) -> None:
    assert locked_processes(LOCKED, hosts=facts.hosts, boot=facts.boot) == frozenset()
    assert locked_processes(LOCKED, hosts=SOUND.hosts, boot=SOUND.boot) == {PROCESS}


@pytest.mark.parametrize(("said", "shown"), [("", "does not say"), ("sanlock", "says 'sanlock'")])
def test_a_libvirt_that_asks_nobody_or_somebody_else_is_a_fault(said: str, shown: str) -> None:
    one = only(replace(SOUND, lock_manager=said))
    assert (one.severity, "libvirt does not ask the agent for locks" in one.text) == (Severity.FAULT, True)
    assert shown in one.evidence
    assert 'lock_manager = "lockd"' in one.remedy


def test_an_agent_that_serves_no_libvirt_needs_no_qemu_conf() -> None:
    assert findings(replace(SOUND, guests=(), conf=None, lock_manager=""), survey()) == []


def test_an_agent_that_libvirt_is_told_to_ask_and_that_does_not_run_is_a_fault() -> None:
    quiet = SocketFact("/x", False)
    one = only(replace(SOUND, guests=(), agent=0, locks=quiet, api=quiet), survey())
    assert "libvirt is told to ask it for every lock" in one.text


def test_stock_virtlockd_in_the_agents_place_is_a_fault() -> None:
    stock = replace(SOUND.locks, listeners=("systemd", "virtlockd"))
    one = only(replace(SOUND, locks=stock))
    assert (one.severity, "stock virtlockd answers libvirt" in one.text) == (Severity.FAULT, True)


def test_an_agent_that_does_not_listen_is_a_fault_for_each_socket() -> None:
    quiet = [replace(one, listened=False, listeners=()) for one in (SOUND.locks, SOUND.api)]
    texts = [one.text for one in findings(replace(SOUND, locks=quiet[0], api=quiet[1]))]
    assert texts == ["the agent cannot be asked by libvirt", "the agent cannot be asked by programs"]


def test_a_status_file_that_cannot_be_read_is_told_and_hides_nothing_else() -> None:
    made = findings(replace(SOUND, unread=("/run/libvirt/qemu/x.xml: Permission denied",)), survey(session(ALICE)))
    assert ["vm runs and holds no lock" in made[0].text, "Permission denied" in made[1].text] == [True, True]


def test_without_the_clusters_keys_the_rest_is_still_told() -> None:
    assert "no agent runs" in only(replace(SOUND, agent=0), None).text


def test_a_host_in_shadow_mode_protects_nothing_and_that_is_a_fault() -> None:
    one = only(replace(SOUND, is_shadow=True))
    assert (one.severity, "NO GUEST IS PROTECTED" in one.text) == (Severity.FAULT, True)


def test_that_libvirts_guests_lock_no_templates_is_told_where_others_do() -> None:
    one = only(replace(SOUND, locks_chains=True))
    assert (one.severity, "do not lock the images below" in one.text) == (Severity.NOTE, True)
