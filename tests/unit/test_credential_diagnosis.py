"""Certificates that end and secrets that are none, from real files to what doctor says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from etcdlock.adapters.certificates import Authority
from etcdlock.cli.credential_diagnosis import diagnose_credentials
from etcdlock.cli.diagnosis import Finding, Severity
from etcdlock.config import CREDENTIALS, Settings
from etcdlock.wiring import credential_files

NOW = datetime(2026, 5, 1, tzinfo=UTC)
DAYS = 60


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """As a host has them whose certificate is good for 60 days."""
    authority = Authority.create("etcdlock blue", now=NOW, days=1000)
    issued = authority.for_client("blue/host/node-1", now=NOW, days=DAYS)
    files = {"ca_file": authority.pem, "cert_file": issued.certificate, "key_file": issued.key, "password_file": b"x"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o644 if name in ("ca_file", "cert_file") else 0o640)
    return Settings().model_copy(update={name: str(tmp_path / name) for name in files})


def findings(settings: Settings, *, after_days: float = 0.0) -> list[Finding]:
    return list(diagnose_credentials(credential_files(settings), now=NOW + timedelta(days=after_days)))


def only(settings: Settings, *, after_days: float = 0.0) -> Finding:
    (one,) = findings(settings, after_days=after_days)
    assert one.evidence
    assert one.remedy
    return one


def test_what_is_valid_and_closed_has_no_finding(settings: Settings) -> None:
    assert findings(settings) == []
    assert findings(settings, after_days=DAYS - 30) == []
    assert findings(Settings()) == []


def test_a_certificate_that_ends_is_noted_a_month_before_and_a_fault_from_then_on(settings: Settings) -> None:
    soon = only(settings, after_days=DAYS - 10)
    assert soon.severity is Severity.NOTE
    assert f"cert_file {settings.cert_file} expires in 10 day(s)" in soon.text
    over = only(settings, after_days=DAYS + 0.1)
    assert over.severity is Severity.FAULT
    assert "HAS EXPIRED" in over.text
    assert "2026-06-30 00:00 UTC" in over.evidence


def test_of_several_authorities_the_last_to_end_counts(settings: Settings) -> None:
    file = Path(settings.ca_file)
    file.write_bytes(Authority.create("the one before", now=NOW, days=2).pem + file.read_bytes())
    assert findings(settings) == []


@pytest.mark.parametrize("name", ["key_file", "password_file"])
@pytest.mark.parametrize("mode", [0o644, 0o602])
def test_a_secret_that_every_user_may_read_or_change_is_a_fault(settings: Settings, name: str, mode: int) -> None:
    path = Path(str(getattr(settings, name)))
    path.chmod(mode)
    one = only(settings)
    assert one.severity is Severity.FAULT
    assert f"{name} {path} is open to every user" in one.text


def test_what_cannot_be_read_is_said_and_hides_nothing_else(settings: Settings) -> None:
    Path(settings.ca_file).write_bytes(b"no certificate")
    Path(settings.key_file).unlink()
    given = settings.model_copy(update={"password_file": f"{CREDENTIALS}password"})
    told = findings(given, after_days=DAYS - 10)
    assert [one.text.split()[0] for one in told] == ["ca_file", "cert_file", "key_file", "password_file"]
    assert {one.severity for one in told} == {Severity.NOTE}
