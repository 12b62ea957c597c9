"""Certificates for etcd's members and clients: an authority of the cluster's own and what it signs.

Guaranteed: keys are new, ECDSA P-256, made here and never leave the record they are in; a member's certificate is good
for its own names and addresses alone; a client's is good for no server. Instants are UTC by this machine's wall clock,
which hosts compare with their own: a certificate is valid from some minutes ago, lest a clock that is a little behind
refuses it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from etcdlock.errors import InvalidInput

LONGEST_COMMON_NAME: Final = 64
"""X.509's own limit (RFC 5280, ub-common-name)."""
CLOCK_SLACK: Final = timedelta(minutes=5)
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

E = TypeVar("E", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Facts:
    """What a certificate says."""

    common_name: str
    names: tuple[str, ...]
    not_after: datetime
    is_authority: bool


class Authority:
    """Signs certificates. `certificate` is PEM."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, /) -> None:
        self._certificate = certificate
        self._key = key

    @property
    def pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return _key_pem(self._key)

    @classmethod
    def create(cls, common_name: str, /, *, now: datetime, days: int) -> Authority:
        """A new one, which signs itself and may sign nothing that signs in turn."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(common_name)
        builder = _begun(name, key.public_key(), now=now, until=now + timedelta(days=days)).issuer_name(name)
        signed = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(signed, key)

    @classmethod
    def load(cls, certificate: bytes, key: bytes, /) -> Authority:
        """One that was made before. Raises `InvalidInput` for what is none, or whose key is another's."""
        loaded, private = _pair(Issued(certificate, key))
        if not facts(certificate).is_authority:
            raise InvalidInput("the certificate is not an authority's")
        return cls(loaded, private)

    def for_member(self, common_name: str, /, *, names: Sequence[str], now: datetime, days: int) -> Issued:
        """For a member of etcd: it serves clients, and is server and client to the other members.

        Loopback is among its names, so that it can be asked on its own machine.
        """
        wanted = [_general_name(name) for name in dict.fromkeys((*names, *_LOOPBACK))]
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._issue(common_name, uses, x509.SubjectAlternativeName(wanted), now=now, days=days)

    def for_client(self, common_name: str, /, *, now: datetime, days: int) -> Issued:
        """For a client, which etcd knows as the user of that name."""
        return self._issue(common_name, [ExtendedKeyUsageOID.CLIENT_AUTH], None, now=now, days=days)

    def renew(self, issued: Issued, /, *, now: datetime, days: int) -> Issued:
        """The same certificate for the same key, valid anew; so that only one file is replaced, and at once."""
        loaded, key = _pair(issued)
        if loaded.issuer != self._certificate.subject:
            raise InvalidInput("another authority has issued it")
        builder = _begun(loaded.subject, key.public_key(), now=now, until=self._until(now, days=days))
        builder = builder.issuer_name(self._certificate.subject)
        for extension in loaded.extensions:
            if extension.oid != x509.SubjectKeyIdentifier.oid:
                builder = builder.add_extension(extension.value, critical=extension.critical)
        signed = builder.sign(self._key, hashes.SHA256())
        return Issued(signed.public_bytes(serialization.Encoding.PEM), issued.key)

    def _until(self, now: datetime, /, *, days: int) -> datetime:
        if days < 1:
            raise InvalidInput(f"it would be valid for {days} days; 1 is the least")
        until = now + timedelta(days=days)
        if until > self._certificate.not_valid_after_utc:
            ends = f"{self._certificate.not_valid_after_utc:%Y-%m-%d}"
            raise InvalidInput(f"{days} days are longer than the authority itself is valid: it ends on {ends}")
        return until

    def _issue(
        self,
        common_name: str,
        uses: list[x509.ObjectIdentifier],
        names: x509.SubjectAlternativeName | None,
        *,
        now: datetime,
        days: int,
    ) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _begun(_name(common_name), key.public_key(), now=now, until=self._until(now, days=days))
        builder = (
            builder.issuer_name(self._certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        return Issued(signed.public_bytes(serialization.Encoding.PEM), _key_pem(key))


def _pair(issued: Issued, /) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        loaded = x509.load_pem_x509_certificate(issued.certificate)
        private = serialization.load_pem_private_key(issued.key, password=None)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"it cannot be read as PEM: {error}") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or loaded.public_key() != private.public_key():
        raise InvalidInput("the key is not the certificate's, or not an elliptic curve's")
    return loaded, private


def facts(certificate: bytes, /) -> Facts:
    """What a PEM certificate says. Raises `InvalidInput` for what is none."""
    try:
        loaded = x509.load_pem_x509_certificate(certificate)
        common = loaded.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        extensions = loaded.extensions
    except (ValueError, x509.UnsupportedGeneralNameType) as error:
        raise InvalidInput(f"it cannot be read as a PEM certificate: {error}") from error
    alternative = _extension(extensions, x509.SubjectAlternativeName)
    basic = _extension(extensions, x509.BasicConstraints)
    return Facts(
        common_name=str(common[0].value) if common else "",
        names=tuple(str(name.value) for name in alternative) if alternative else (),
        not_after=loaded.not_valid_after_utc,
        is_authority=basic is not None and basic.ca,
    )


def _extension(extensions: x509.Extensions, kind: type[E], /) -> E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _begun(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, /, *, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str, /) -> x509.Name:
    if len(common_name) > LONGEST_COMMON_NAME:
        raise InvalidInput(
            f"{common_name!r} has {len(common_name)} characters; a certificate's has {LONGEST_COMMON_NAME} at most",
            hint="shorten the cluster's name, or the host's",
        )
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str, /) -> x509.GeneralName:
    """An IP address or a host name. Raises `InvalidInput` for what is neither."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError as error:
        if re.fullmatch(r"[0-9]+(\.[0-9]+)+", name):  # no host is called so: a mistyped address
            raise InvalidInput(f"{name!r} is no IP address, and no host name either") from error
    labels = name.removesuffix(".").split(".")
    if not all(label and all(c.isascii() and (c.isalnum() or c in "-_") for c in label) for label in labels):
        raise InvalidInput(f"{name!r} is neither a host name nor an IP address")
    return x509.DNSName(name)


def _key_pem(key: ec.EllipticCurvePrivateKey, /) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
