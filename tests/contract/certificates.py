"""Throw-away certificates for tests, made with the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

_EXTENSIONS: Final = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"


@dataclass(frozen=True, slots=True)
class Certificate:
    """Paths of a certificate and its key."""

    cert_file: str
    key_file: str


class Authority:
    """A certificate authority of its own in `folder`."""

    def __init__(self, folder: Path, /, *, name: str) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("needs openssl: make system-deps")
        self._folder = folder
        self._name = name
        self.certificate = self._key(name)
        _openssl(
            "req", "-x509", "-new", "-days", "2", "-subj", f"/CN={name}",
            "-key", self.certificate.key_file, "-out", self.certificate.cert_file,
        )  # fmt: skip

    @property
    def ca_file(self) -> str:
        return self.certificate.cert_file

    def issue(self, name: str, /) -> Certificate:
        """One for loopback, good for servers and clients."""
        issued = self._key(name)
        request, extensions = self._folder / f"{name}.csr", self._folder / "extensions"
        extensions.write_text(_EXTENSIONS)
        _openssl("req", "-new", "-subj", f"/CN={name}", "-key", issued.key_file, "-out", str(request))
        _openssl(
            "x509", "-req", "-days", "2", "-in", str(request), "-out", issued.cert_file,
            "-CA", self.certificate.cert_file, "-CAkey", self.certificate.key_file, "-CAcreateserial",
            "-extfile", str(extensions),
        )  # fmt: skip
        return issued

    def _key(self, name: str) -> Certificate:
        made = Certificate(str(self._folder / f"{name}.pem"), str(self._folder / f"{name}.key"))
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", made.key_file)
        return made


def _openssl(*words: str) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
