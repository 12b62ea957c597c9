"""Look for faults in etcd, clocks, contract and on this host.

Every endpoint is asked for itself: whether it can be used, how fast it answers, which version it runs and what is known
of that, who leads, how large its database is, which alarms it raises. The timing contract here is compared with the
cluster's, and every key of the cluster is read. Guests that libvirt runs on this host are compared with the locks in
etcd: one that was started while no agent ran holds none. Certificates that end soon are told, and secrets that every
user may read. Nothing is changed.

Exits with 0 if there is no fault (notes are none), 107 if there is one, 101 if no endpoint can be used, 106 if etcd
denies access.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from etcdlock.cli.common import Common, run_async
from etcdlock.cli.exits import Exit, exit_for
from etcdlock.errors import EtcdlockError

if TYPE_CHECKING:
    from etcdlock.cli.diagnosis import Clocks, Facts, Finding
    from etcdlock.cli.host_facts import HostFacts
    from etcdlock.config import Settings
    from etcdlock.guard.table import Name
    from etcdlock.survey import Survey

USAGE = "[OPTIONS]"


def command(common: Common) -> int:
    """Look, judge, show."""
    from etcdlock.cli.credential_diagnosis import diagnose_credentials
    from etcdlock.cli.diagnosis import Finding, Severity, diagnose
    from etcdlock.cli.host_diagnosis import diagnose_host
    from etcdlock.cli.host_facts import see_host
    from etcdlock.wiring import credential_files

    settings = common.settings()
    mine = settings.contract
    host = see_host(settings)
    facts, failure = run_async(_gather(settings))
    findings = diagnose(
        facts, mine=mine, contract_key=settings.keyspace.contract, allow_unsafe_etcd=settings.allow_unsafe_etcd
    )
    findings += diagnose_host(host, facts.survey, gone=_gone(host, facts.survey))
    findings += diagnose_credentials(credential_files(settings), now=datetime.now(UTC))
    if failure is not None:
        findings += (Finding(Severity.FAULT, f"the cluster's keys cannot be read: {failure}"),)
    common.show(_document(settings, facts, host, findings), otherwise=lambda: _print(facts, findings))
    if failure is not None:
        return exit_for(failure)
    return Exit.FINDINGS if any(finding.severity is Severity.FAULT for finding in findings) else Exit.OK


async def _gather(settings: Settings, /) -> tuple[Facts, EtcdlockError | None]:
    """All that can be seen, and why the keys could not be, if so."""
    from etcdlock.adapters.etcd_members import list_members
    from etcdlock.cli.diagnosis import Facts
    from etcdlock.cli.looking import look_with
    from etcdlock.wiring import etcd_options, open_store

    async with open_store(settings) as store:
        reports = await store.inspect()
        reached = next((report.endpoint for report in reports if report.reachable), None)
        members = await list_members(etcd_options(settings), endpoint=reached) if reached else None
        survey, failure = None, None
        try:
            survey = await look_with(store, settings)
        except EtcdlockError as error:
            failure = error
    return Facts(endpoints=reports, members=members, clocks=_clocks(), survey=survey), failure


def _clocks() -> Clocks:
    """Over the whole time since boot; the steered and the raw clock both began then and both stop in a suspend."""
    from etcdlock.cli.diagnosis import Clocks

    steered, raw = time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_MONOTONIC_RAW)
    running = time.clock_gettime(time.CLOCK_BOOTTIME)
    return Clocks(rate_error=(steered - raw) / raw, suspended_seconds=max(running - steered, 0.0))


def _gone(host: HostFacts, survey: Survey | None, /) -> frozenset[Name]:
    """The processes that do not live now, of those that were seen or that locks of this host name."""
    from etcdlock.cli.host_diagnosis import locked_processes
    from etcdlock.cli.host_facts import gone_of

    locked = locked_processes(survey, hosts=host.hosts, boot=host.boot) if survey else frozenset()
    return gone_of(locked | {guest.process for guest in host.guests})


def _document(
    settings: Settings, facts: Facts, host: HostFacts, findings: tuple[Finding, ...], /
) -> dict[str, object]:
    from etcdlock.cli import diagnosis_document

    return diagnosis_document.document(facts, host, findings, cluster=settings.cluster, mine=settings.contract)


def _print(facts: Facts, findings: tuple[Finding, ...], /) -> None:
    from etcdlock.cli import tables
    from etcdlock.cli.diagnosis import Severity

    out = tables.console()
    endpoints = tables.table("ENDPOINT", "VERSION", "ANSWERS IN", "DATABASE", "ROLE", right=("ANSWERS IN", "DATABASE"))
    for report in facts.endpoints:
        if not report.reachable:
            endpoints.add_row(report.endpoint, "-", "-", "-", "unusable")
            continue
        latency, size = f"{report.latency_seconds * 1000:.1f} ms", f"{report.db_size_bytes / 2**20:.1f} MiB"
        endpoints.add_row(report.endpoint, report.version, latency, size, "leader" if report.is_leader else "follower")
    out.print(endpoints)
    members = "unknown" if facts.members is None else ", ".join(member.name for member in facts.members)
    out.print()
    out.print(tables.text(f"Members: {members}"), soft_wrap=True)
    out.print(f"Clocks: rate error {facts.clocks.rate_error:+.6f}, suspended {facts.clocks.suspended_seconds:.0f} s")
    out.print(f"\n{len(findings)} finding(s)" if findings else "\nNothing was found.")
    for finding in findings:
        style = "bold red" if finding.severity is Severity.FAULT else ""
        out.print(tables.text(f"  {finding.severity}: {finding.text}", style=style), soft_wrap=True)
        for title, text in (("known by", finding.evidence), ("to do", finding.remedy)):
            if text:
                out.print(tables.text(f"    {title}: {text}"), soft_wrap=True)
