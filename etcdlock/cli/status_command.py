"""Show all hosts and locks of the cluster, stale ones marked.

One look at one revision of etcd, at nobody's cost. A lock is stale when its session has no key any more: its host has
crashed or is cut off. What stands between it and the next who wants it is said below the tables. Records that cannot be
read, or that disagree, are listed under "Leftovers" and hide nothing else.

Exits with 0, or 105 if a record could not be read, 101 if etcd is away, 106 if it denies access.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from etcdlock.cli.common import Common
from etcdlock.cli.looking import exit_of, look, rules_of
from etcdlock.cli.via import ViaOption

if TYPE_CHECKING:
    from etcdlock.session import Contract
    from etcdlock.survey import Survey

USAGE = "[OPTIONS]"
NOT_PROTECTED = "nothing is refused or stopped on this host, no guest is protected; see 'etcdlock shadow'"


def command(common: Common, *, via: ViaOption = None) -> int:
    """Look and show."""
    from etcdlock.documents import survey_document

    settings = common.settings(via=via)
    mine = settings.contract
    survey = look(settings)
    rules = rules_of(survey, mine=mine)
    common.show(
        survey_document(survey, cluster=settings.cluster, needs=rules.takeover_needs),
        otherwise=lambda: _print(survey, cluster=settings.cluster, rules=rules, is_shadow=settings.is_shadow),
    )
    return exit_of(survey)


def _print(survey: Survey, /, *, cluster: str, rules: Contract, is_shadow: bool) -> None:
    from etcdlock.cli import tables

    out = tables.console()
    if is_shadow:
        out.print(tables.text(f"SHADOW MODE: {NOT_PROTECTED}", style="bold red"), soft_wrap=True)
    counts = f"sessions {len(survey.sessions)}, locks {len(survey.locks)}, stale {len(survey.stale_locks)}"
    out.print(tables.text(f"Cluster {cluster} at revision {survey.revision}: {counts}"), soft_wrap=True)
    if survey.sessions:
        out.print("\nSessions", style="bold")
        out.print(tables.sessions_table(survey.sessions, details=False))
    if survey.locks:
        out.print("\nLocks", style="bold")
        out.print(tables.locks_table(survey.locks))
    tables.show_stale(out, survey, needs=rules.takeover_needs, timing=rules.timing)
    tables.show_fencings(out, survey)
    tables.show_leftovers(out, survey.leftovers)
