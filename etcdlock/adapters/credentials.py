"""The files with which a program shows etcd who it is, and by which it knows etcd: until when, and who may read them.

Instants are UTC, to be compared with the wall clock, as TLS does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

CERTIFICATES = ("ca_file", "cert_file")
SECRETS = ("key_file", "password_file")
_OTHERS = 0o007


@dataclass(frozen=True, slots=True)
class CredentialFile:
    """One that a setting names. `not_after` is None where it holds no certificate; `unread` says why it was not."""

    setting: str
    path: str
    not_after: datetime | None = None
    is_open: bool = False
    """A secret that every user of the host may read or change."""
    unread: str = ""


def look_at(setting: str, path: str, /) -> CredentialFile:
    """What there is. Raises nothing."""
    look = _certificate if setting in CERTIFICATES else _secret
    try:
        return look(setting, Path(path))
    except (OSError, ValueError) as error:
        return CredentialFile(setting, path, unread=str(error))


def _certificate(name: str, path: Path) -> CredentialFile:
    """Of several, a client shows the first; of authorities the last to end counts, since one may succeed another."""
    found = [one.not_valid_after_utc for one in x509.load_pem_x509_certificates(path.read_bytes())]
    return CredentialFile(name, str(path), not_after=found[0] if name == "cert_file" else max(found))


def _secret(name: str, path: Path) -> CredentialFile:
    return CredentialFile(name, str(path), is_open=bool(path.stat().st_mode & _OTHERS))
