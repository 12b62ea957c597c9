"""What `doctor` makes of what it has seen: findings, each a fault or a note; pure.

A fault keeps locks from being taken, or guests from living long. A note is worth knowing and harms nobody today.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from etcdlock.errors import ContractMismatch
from etcdlock.etcdversion import Standing, judge_version
from etcdlock.session import Contract, check_contract
from etcdlock.survey import Survey

if TYPE_CHECKING:
    from etcdlock.adapters.etcd_inspect import EndpointReport
    from etcdlock.adapters.etcd_members import Member


class Severity(StrEnum):
    """Only faults make `doctor` exit with another code than 0."""

    FAULT = "fault"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found, for a person; how that is known and what to do, where the text does not say so itself."""

    severity: Severity
    text: str
    evidence: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Clocks:
    """This host's clocks since it booted.

    `rate_error` is by how much the steered clock ran faster than the raw one; `suspended_seconds` how long neither ran.
    """

    rate_error: float
    suspended_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything seen. `survey` is None where the keys could not be read, `members` where etcd does not tell."""

    endpoints: tuple[EndpointReport, ...]
    members: tuple[Member, ...] | None
    clocks: Clocks
    survey: Survey | None


def diagnose(facts: Facts, /, *, mine: Contract, contract_key: str, allow_unsafe_etcd: bool) -> tuple[Finding, ...]:
    """Every finding, in the order in which one would look."""
    return (
        *_of_endpoints(facts.endpoints, allow_unsafe_etcd=allow_unsafe_etcd),
        *_of_members(facts),
        *_of_clocks(facts.clocks, allowed=mine.timing.clock_rate_error),
        *(_of_keys(facts.survey, mine=mine, contract_key=contract_key) if facts.survey else ()),
    )


def _fault(text: str) -> Finding:
    return Finding(Severity.FAULT, text)


def _note(text: str) -> Finding:
    return Finding(Severity.NOTE, text)


def _of_endpoints(reports: tuple[EndpointReport, ...], *, allow_unsafe_etcd: bool) -> Iterator[Finding]:
    for report in reports:
        if not report.reachable:
            yield _fault(f"{report.endpoint} cannot be used: {report.error}")
            continue
        verdict = judge_version(report.version)
        if verdict.text:
            refused = verdict.standing is Standing.REFUSE and not allow_unsafe_etcd
            yield Finding(Severity.FAULT if refused else Severity.NOTE, f"{report.endpoint}: {verdict.text}")
        if report.alarms:
            raised = ", ".join(report.alarms)
            yield _fault(f"{report.endpoint} raises {raised}: etcd refuses writes until that is mended and disarmed")


def _of_members(facts: Facts) -> Iterator[Finding]:
    reached = [report for report in facts.endpoints if report.reachable]
    if len({report.member_id for report in reached}) < len(reached):
        yield _note("two endpoints lead to one and the same member of etcd")
    if facts.members is None:
        return
    if len(facts.members) < 3:
        yield _note(f"etcd has {len(facts.members)} member(s): with fewer than three it stands still when one is lost")
    unknown = {member.id for member in facts.members} - {report.member_id for report in reached}
    if unknown and len(facts.members) > 1:
        yield _note(f"{len(unknown)} of etcd's {len(facts.members)} members are not reached by any endpoint given here")


def _of_clocks(clocks: Clocks, *, allowed: float) -> Iterator[Finding]:
    if abs(clocks.rate_error) > allowed:
        yield _fault(
            f"this host's clocks differ in rate by {clocks.rate_error:.6f}, more than clock_rate_error {allowed:g}: "
            "one of them is wrong, and guests might outlive the proof of their end"
        )


def _of_keys(survey: Survey, *, mine: Contract, contract_key: str) -> Iterator[Finding]:
    if survey.contract is None and not any(item.key == contract_key for item in survey.leftovers):
        yield _note("the cluster has no contract yet: the first session writes it with its own settings")
    if survey.contract is not None:
        try:
            check_contract(mine, survey.contract, key=contract_key)
        except ContractMismatch as mismatch:
            yield _fault(f"{mismatch}; {mismatch.hint}")
    for lock in survey.stale_locks:
        record = lock.stored.record
        yield _note(f"the lock of domain {record.domain} is stale: session {record.owner} is {lock.standing}")
    for leftover in survey.leftovers:
        yield Finding(Severity.NOTE if leftover.kind.harmless else Severity.FAULT, f"{leftover.kind}: {leftover.text}")
