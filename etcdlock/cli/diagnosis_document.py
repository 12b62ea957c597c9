"""The JSON document of `doctor`; names as in docs/CLI.md, which a test holds to be true."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etcdlock.cli.diagnosis import Facts, Finding, Severity
from etcdlock.documents import Document, leftover_document
from etcdlock.etcdversion import judge_version

if TYPE_CHECKING:
    from etcdlock.adapters.etcd_inspect import EndpointReport
    from etcdlock.adapters.etcd_members import Member
    from etcdlock.cli.host_facts import HostFacts, SeenGuest
    from etcdlock.session import Contract


def document(
    facts: Facts, host: HostFacts, findings: tuple[Finding, ...], /, *, cluster: str, mine: Contract
) -> Document:
    """All facts and all findings."""
    survey = facts.survey
    agreed = dict(survey.contract) if survey and survey.contract else None
    return {
        "cluster": cluster,
        "sound": not any(finding.severity is Severity.FAULT for finding in findings),
        "endpoints": [_endpoint(report) for report in facts.endpoints],
        "members": None if facts.members is None else [_member(member) for member in facts.members],
        "clocks": {
            "rate_error": round(facts.clocks.rate_error, 9),
            "suspended_seconds": round(facts.clocks.suspended_seconds, 3),
        },
        "contract": {"here": mine.as_mapping(), "agreed": agreed},
        "host": _host(host),
        "leftovers": [leftover_document(item) for item in survey.leftovers] if survey else None,
        "findings": [_finding(finding) for finding in findings],
    }


def _finding(finding: Finding) -> Document:
    return {
        "severity": finding.severity,
        "text": finding.text,
        "evidence": finding.evidence or None,
        "remedy": finding.remedy or None,
    }


def _host(facts: HostFacts) -> Document:
    return {
        "agent": facts.agent or None,
        "lock_manager": facts.lock_manager or None,
        "sockets": [
            {"path": one.path, "listened": one.listened, "listeners": list(one.listeners)}
            for one in (facts.locks, facts.api)
        ],
        "guests": [_guest(guest) for guest in facts.guests],
    }


def _guest(guest: SeenGuest) -> Document:
    return {
        "domain": {"uuid": str(guest.domain.uuid), "name": guest.domain.name},
        "pid": guest.process.pid,
        "vcpus_run": guest.vcpus_run,
        "source": guest.source,
    }


def _endpoint(report: EndpointReport) -> Document:
    """What is not known of an endpoint that cannot be used is null."""
    verdict = judge_version(report.version) if report.reachable else None
    return {
        "endpoint": report.endpoint,
        "reachable": report.reachable,
        "error": report.error or None,
        "version": report.version or None,
        "verdict": verdict.standing if verdict else None,
        "verdict_text": (verdict.text or None) if verdict else None,
        "member": f"{report.member_id:x}" if report.reachable else None,
        "leader": report.is_leader if report.reachable else None,
        "db_size_bytes": report.db_size_bytes if report.reachable else None,
        "latency_seconds": round(report.latency_seconds, 6) if report.reachable else None,
        "alarms": list(report.alarms) if report.alarms is not None else None,
    }


def _member(member: Member) -> Document:
    return {"member": f"{member.id:x}", "name": member.name, "client_urls": list(member.client_urls)}
