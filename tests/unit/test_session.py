"""What may be concluded about a session, and who may join beside whom."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcdlock.errors import ContractMismatch
from etcdlock.escalation import Action
from etcdlock.model import DomainId, DomainRecord, LockState, Machine, SessionKind, SessionRecord, SessionRef
from etcdlock.session import (
    Contract,
    Neighbour,
    Phase,
    Session,
    check_contract,
    duplicate_host,
    ended_by_reboot,
    judge_neighbour,
)
from etcdlock.timing import Timing

TIMING = Timing()
MACHINE = Machine("boot 1", "machine")
RECORD = SessionRecord(SessionRef("a", "s1"), MACHINE, SessionKind.RUN, "1", "10.0.0.1", "2026-01-01T00:00:00")
SESSION = Session(RECORD, lease=1, create_revision=5, epoch=5, proven_at=100.0)
INSTANTS = st.floats(min_value=0.0, max_value=1000.0)


def domain_of(owner: SessionRef, machine: Machine) -> DomainRecord:
    return DomainRecord(DomainId(UUID(int=1), "vm"), owner, machine, LockState.HELD, 0, 0, (), "r", None, "")


@pytest.mark.parametrize(
    ("after", "phase"),
    [(0.0, Phase.LIVE), (3.4, Phase.LIVE), (3.5, Phase.SUSPECT), (18.4, Phase.SUSPECT), (18.46, Phase.LOST)],
)
def test_a_session_is_live_then_suspect_then_lost_as_its_last_heartbeat_ages(after: float, phase: Phase) -> None:
    assert SESSION.phase(100.0 + after, TIMING) is phase


def test_a_session_whose_key_was_found_missing_is_lost_at_once_and_for_good() -> None:
    missing = SESSION.missing()
    assert missing.phase(100.0, TIMING) is Phase.LOST
    assert missing.proven(101.0).phase(101.0, TIMING) is Phase.LOST
    assert not missing.may_answer_yes(100.0, TIMING)


@given(INSTANTS, st.lists(INSTANTS, max_size=5))
def test_a_yes_is_given_only_before_the_guests_would_be_stopped(now: float, heartbeats: list[float]) -> None:
    session = SESSION
    for sent_at in heartbeats:
        session = session.proven(sent_at)
    newest = max([100.0, *heartbeats])
    assert session.proven_at == newest
    assert session.stop_at(TIMING) == newest + TIMING.stop_after_seconds
    assert session.may_answer_yes(now, TIMING) == (now < newest + TIMING.stop_after_seconds)
    assert (session.phase(now, TIMING) is Phase.LOST) == (not session.may_answer_yes(now, TIMING))


def test_the_answer_to_an_older_barrier_that_comes_late_does_not_take_the_epoch_back() -> None:
    assert SESSION.moved(9).moved(7).epoch == 9
    assert SESSION.moved(9).create_revision == SESSION.create_revision


def test_a_program_of_this_boot_is_a_sibling_and_everybody_else_an_earlier_boot_or_a_stranger() -> None:
    assert judge_neighbour(MACHINE, RECORD) is Neighbour.SIBLING
    assert judge_neighbour(replace(MACHINE, boot="boot 2"), RECORD) is Neighbour.EARLIER_BOOT
    assert judge_neighbour(replace(MACHINE, machine=""), RECORD) is Neighbour.SIBLING


@pytest.mark.parametrize(
    ("mine", "host", "owner", "proven"),
    [
        (Machine("boot 2", "machine"), "a", MACHINE, True),
        (Machine("boot 1", "machine"), "a", MACHINE, False),
        (Machine("boot 2", "machine"), "b", MACHINE, False),
        (Machine("boot 2", "another"), "a", MACHINE, False),
        (Machine("boot 2", ""), "a", Machine("boot 1", ""), False),
    ],
    ids=["reset", "same boot", "other host", "other machine", "machine unknown"],
)
def test_only_another_boot_of_the_very_same_machine_and_host_proves_an_end(
    mine: Machine, host: str, owner: Machine, proven: bool
) -> None:
    assert ended_by_reboot(mine, domain_of(RECORD.ref, owner), host=host) is proven


def test_a_duplicate_host_is_named_with_its_address_and_what_to_do() -> None:
    refusal = duplicate_host(RECORD, waited_seconds=14.0)
    assert "'a' is in use" in str(refusal)
    assert "10.0.0.1" in str(refusal)
    assert "host_id" in refusal.hint
    assert "an unknown address" in str(duplicate_host(replace(RECORD, address=""), waited_seconds=1.0))


def test_the_same_contract_is_accepted_whether_its_numbers_are_whole_or_not() -> None:
    agreed = {"v": 1, **Contract(TIMING).as_mapping(), "timing": {**TIMING.as_mapping(), "hold_off_seconds": 25}}
    check_contract(Contract(TIMING), agreed, key="/k")


def test_a_contract_that_was_written_before_there_were_local_folders_means_that_there_are_none() -> None:
    agreed = {name: value for name, value in Contract(TIMING).as_mapping().items() if name != "local_folders"}
    check_contract(Contract(TIMING), agreed, key="/k")
    with pytest.raises(ContractMismatch, match=r"local_folders: here \['/local'\], cluster \[\]"):
        check_contract(Contract(TIMING, local_folders=("/local",)), agreed, key="/k")


def test_a_cluster_that_never_said_what_is_done_at_a_lost_session_kills_and_older_hosts_join_it() -> None:
    agreed = Contract(TIMING).as_mapping()
    assert "on_session_lost" not in agreed
    check_contract(Contract(TIMING), agreed, key="/k")
    with pytest.raises(ContractMismatch, match=" cluster_on_session_lost: here freeze, cluster kill"):
        check_contract(Contract(TIMING, on_session_lost=Action.FREEZE), agreed, key="/k")
    frozen = Contract(TIMING, on_session_lost=Action.FREEZE)
    check_contract(frozen, frozen.as_mapping(), key="/k")


@pytest.mark.parametrize(
    ("agreed", "named"),
    [
        ({"local_folders": ["/local"]}, r"local_folders: here \[\], cluster \['/local'\]"),
        ({"takeover_needs": "fence"}, "takeover_needs: here silence, cluster fence"),
        ({"on_session_lost": "freeze"}, " cluster_on_session_lost: here kill, cluster freeze"),
        ({"disk_identity": "md5"}, "disk_identity: here path, cluster md5"),
        ({"timing": {**TIMING.as_mapping(), "kill_seconds": 6.0}}, "kill_seconds: here 5.0, cluster 6.0"),
        ({"timing": "broken"}, "ttl_seconds: here 10, cluster None"),
        ({"rule of a later version": 1}, "rule of a later version: here None, cluster 1"),
    ],
)
def test_every_difference_to_the_clusters_contract_is_refused_with_both_values(
    agreed: dict[str, object], named: str
) -> None:
    with pytest.raises(ContractMismatch, match=named):
        check_contract(Contract(TIMING), {**Contract(TIMING).as_mapping(), **agreed}, key="/k")


def test_hosts_whose_rules_would_give_other_names_do_not_share_a_cluster() -> None:
    agreed = Contract(TIMING, disk_identity="auto", identity_rules=1).as_mapping()
    with pytest.raises(ContractMismatch, match="identity_rules: here 2, cluster 1"):
        check_contract(Contract(TIMING, disk_identity="auto", identity_rules=2), agreed, key="/k")
    assert "identity_rules" not in Contract(TIMING).as_mapping(), "older hosts join where paths are names"


def test_a_contract_from_before_there_were_backing_chains_locks_none_and_both_values_are_told() -> None:
    older = Contract(TIMING).as_mapping()
    assert "backing_chain" not in older, "older hosts join where chains are not locked"
    with pytest.raises(ContractMismatch, match="backing_chain: here shared, cluster none"):
        check_contract(Contract(TIMING, backing_chain="shared"), older, key="/k")
    with pytest.raises(ContractMismatch, match="backing_chain: here none, cluster shared"):
        check_contract(Contract(TIMING), Contract(TIMING, backing_chain="shared").as_mapping(), key="/k")
