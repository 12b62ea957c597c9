"""Where etcd is and how it is spoken to: one frozen record, checked when it is built.

Certificates are read once, when a store is made; a renewed certificate is used after a restart.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from etcdlock.errors import InvalidSetting, reason_of


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """`endpoints` are host:port, IPv6 addresses in brackets. With `ca_file` or `cert_file` the connection is TLS.

    `try_timeout_seconds` bounds one try at one endpoint, connecting included. `max_txn_ops` is etcd's --max-txn-ops.
    """

    endpoints: tuple[str, ...]
    try_timeout_seconds: float = 1.5
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    max_txn_ops: int = 128

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise InvalidSetting("endpoints: at least one etcd endpoint is needed, as host:port.")
        for endpoint in self.endpoints:
            _check_endpoint(endpoint)
        if len(set(self.endpoints)) != len(self.endpoints):
            raise InvalidSetting(f"endpoints: one is named twice in {', '.join(self.endpoints)}.")
        if not 0 < self.try_timeout_seconds < float("inf"):
            raise InvalidSetting(f"try_timeout_seconds: {self.try_timeout_seconds} is not a positive time.")
        if self.max_txn_ops < 1:
            raise InvalidSetting(f"max_txn_ops: {self.max_txn_ops} is less than 1.")
        if bool(self.cert_file) != bool(self.key_file):
            raise InvalidSetting("cert_file and key_file: a client certificate needs both.")
        if bool(self.username) != bool(self.password):
            raise InvalidSetting("username and password: set both or neither.")

    @property
    def uses_tls(self) -> bool:
        return bool(self.ca_file or self.cert_file)


def _check_endpoint(endpoint: str) -> None:
    host, _, port = endpoint.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if "/" in endpoint or (":" in host and not bracketed) or not host.strip("[]"):
        raise InvalidSetting(
            f"endpoints: {endpoint!r} is not host:port.",
            hint="Leave out http:// and https://; write an IPv6 address as [address]:port.",
        )
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidSetting(f"endpoints: {endpoint!r} has no port between 1 and 65535.")


def read_credentials(options: EtcdOptions, /) -> grpc.ChannelCredentials | None:
    """TLS credentials from the files that `options` names, None for plain text.

    Raises `InvalidSetting` naming the setting and the file. gRPC itself would accept a file full of nonsense and
    only fail to connect, without saying why; so the files are tried with `ssl` first.
    """
    if not options.uses_tls:
        return None
    _try_ca(options.ca_file)
    _try_certificate(options)
    return grpc.ssl_channel_credentials(
        root_certificates=_read(options.ca_file, setting="ca_file"),
        private_key=_read(options.key_file, setting="key_file"),
        certificate_chain=_read(options.cert_file, setting="cert_file"),
    )


def _read(path: str, *, setting: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"{setting}: {path} cannot be read: {reason_of(error)}") from error


def _try_ca(path: str) -> None:
    pem = _read(path, setting="ca_file")
    if pem is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii", errors="replace"))
    except (ssl.SSLError, ValueError) as error:
        raise InvalidSetting(f"ca_file: {path} holds no readable PEM certificate: {error}") from error


def _try_certificate(options: EtcdOptions) -> None:
    for setting in ("cert_file", "key_file"):
        _read(getattr(options, setting), setting=setting)  # names the one that is missing
    if not options.cert_file:
        return
    try:
        # An empty password, lest a key with a passphrase asks for it on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(options.cert_file, options.key_file, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise InvalidSetting(
            f"cert_file {options.cert_file} and key_file {options.key_file} are no PEM certificate with its "
            f"unencrypted key: {error}"
        ) from error
