"""List the hosts of the cluster and their sessions.

A host is known by its sessions: those that have a key in etcd, and those that have none any more but are still named by
a lock. "silent" means no key and no proof of the end; "dead" means proven, with the proof in brackets.

Exits with 0, or 105 if a record could not be read, 101 if etcd is away, 106 if it denies access.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from etcdlock.cli.common import Common
from etcdlock.cli.looking import exit_of, look
from etcdlock.cli.via import ViaOption

if TYPE_CHECKING:
    from etcdlock.survey import Survey

USAGE = "[OPTIONS]"


def command(common: Common, *, via: ViaOption = None) -> int:
    """Look and list."""
    from etcdlock.documents import sessions_document

    settings = common.settings(via=via)
    survey = look(settings)
    common.show(sessions_document(survey, cluster=settings.cluster), otherwise=lambda: _print(survey))
    return exit_of(survey)


def _print(survey: Survey, /) -> None:
    from etcdlock.cli import tables

    out = tables.console()
    if survey.sessions:
        out.print(tables.sessions_table(survey.sessions, details=True))
    else:
        out.print("No host has a session, and no lock names one.")
    tables.show_fencings(out, survey)
    tables.show_leftovers(out, survey.unreadable)
