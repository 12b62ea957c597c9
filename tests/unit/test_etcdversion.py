"""The verdict on etcd's versions at each border."""

from __future__ import annotations

import pytest

from etcdlock.etcdversion import Standing, judge_version, roles_bind


@pytest.mark.parametrize("version", ["3.5.0", "3.5.1", "3.5.2", "3.2.32", "2.3.8", "v3.5.1", "3.5.0-rc.1"])
def test_what_loses_data_or_breaks_exclusion_is_refused(version: str) -> None:
    verdict = judge_version(version)
    assert verdict.standing is Standing.REFUSE
    assert version in verdict.text


@pytest.mark.parametrize("version", ["3.4.42", "3.5.28", "3.6.9", "3.6.12", "3.7.0", "4.0.0", "3.5.28+git"])
def test_what_has_no_known_fault_is_fine(version: str) -> None:
    assert judge_version(version).standing is Standing.OK


@pytest.mark.parametrize(
    ("version", "revokes", "stale"),
    [
        ("3.3.27", True, True),
        ("3.4.30", True, True),
        ("3.4.31", False, True),
        ("3.4.41", False, True),
        ("3.5.3", True, True),
        ("3.5.12", True, True),
        ("3.5.13", False, True),
        ("3.5.27", False, True),
        ("3.6.0", False, True),
        ("3.6.8", False, True),
    ],
)
def test_a_warning_names_the_faults_of_that_version(version: str, revokes: bool, stale: bool) -> None:
    verdict = judge_version(version)
    assert verdict.standing is Standing.WARN
    assert ("revoke leases" in verdict.text) is revokes
    assert ("plain reads" in verdict.text) is stale


@pytest.mark.parametrize(
    ("version", "stops"), [("3.4.19", True), ("3.4.20", False), ("3.5.6", True), ("3.5.7", False), ("3.6.0", False)]
)
def test_a_version_that_a_full_database_silences_is_warned_of(version: str, stops: bool) -> None:
    assert ("database is full" in judge_version(version).text) is stops


@pytest.mark.parametrize("version", ["", "unknown", "3.5", "3.5.1.9", "3..1"])
def test_a_version_that_cannot_be_read_is_warned_of_and_not_passed(version: str) -> None:
    assert judge_version(version).standing is Standing.WARN


@pytest.mark.parametrize(
    ("version", "bind"),
    [
        ("3.4.23", False), ("3.4.41", False), ("3.4.42", True), ("3.5.1", False), ("3.5.27", False), ("3.5.28", True),
        ("3.6.8", False), ("3.6.9", True), ("3.7.0", True), ("3.3.27", False), ("nonsense", False),
    ],
)  # fmt: skip
def test_roles_bind_from_the_release_on_that_looks_into_nested_transactions(version: str, bind: bool) -> None:
    assert roles_bind(version) is bind
    assert bind or judge_version(version).standing is not Standing.OK
