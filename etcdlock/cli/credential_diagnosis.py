"""What `doctor` makes of certificates that end and of secrets that are none; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from etcdlock.adapters.credentials import CredentialFile
from etcdlock.cli.diagnosis import Finding, Severity
from etcdlock.identity import escaped

TELL_BEFORE = timedelta(days=30)


def diagnose_credentials(files: Sequence[CredentialFile], /, *, now: datetime) -> tuple[Finding, ...]:
    """Every finding. `now` is UTC."""
    return tuple(finding for file in files for finding in _of(file, now=now))


def _of(file: CredentialFile, /, *, now: datetime) -> Iterator[Finding]:
    name = f"{file.setting} {escaped(file.path)}"
    if file.unread:
        yield Finding(
            Severity.NOTE,
            f"{name} was not looked at",
            evidence=escaped(file.unread),
            remedy="run doctor as the user that the agent runs as; what systemd hands to the agent only it can read",
        )
    if file.is_open:
        yield Finding(
            Severity.FAULT,
            f"{name} is open to every user of this host: who reads it can take and break this host's locks",
            evidence="its mode gives rights to others",
            remedy=f"chmod o= {escaped(file.path)}, and issue it anew if this host has users that are not trusted",
        )
    if file.not_after is not None and file.not_after - now < TELL_BEFORE:
        yield _of_end(name, file.not_after, now=now)


def _of_end(name: str, not_after: datetime, /, *, now: datetime) -> Finding:
    evidence = f"valid until {not_after:%Y-%m-%d %H:%M} UTC"
    remedy = "'etcdlock certs FOLDER --host NAME --renew' issues it anew; give it out and restart the agent"
    if not_after <= now:
        text = f"{name} HAS EXPIRED: the next time that the agent connects it is refused, and guests are stopped"
        return Finding(Severity.FAULT, text, evidence=evidence, remedy=remedy)
    text = f"{name} expires in {(not_after - now).days} day(s); after that this host loses etcd and its guests"
    return Finding(Severity.NOTE, text, evidence=evidence, remedy=remedy)
