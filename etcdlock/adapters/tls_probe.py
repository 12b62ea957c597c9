"""Does a TLS server insist on a client's certificate? Asked by coming without one.

Blocking; the server hears the beginning of an HTTP/2 conversation and nothing else.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

from etcdlock.errors import Unreachable

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"  # RFC 9113, 3.4: with empty settings


def wants_client_certificate(endpoint: str, /, *, ca_file: str, within_seconds: float) -> bool:
    """True if it hangs up on who has none. Raises `Unreachable` if it cannot be told."""
    host, _, port = endpoint.rpartition(":")
    context = ssl.create_default_context(cafile=ca_file or None)
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=within_seconds) as plain:
            return not _is_served(context, plain, host=host.strip("[]"))
    except TimeoutError:
        raise Unreachable(f"{endpoint}: no answer in time") from None
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(f"{endpoint}: its certificate is not accepted: {error}") from error
    except OSError as error:
        raise Unreachable(f"{endpoint}: {error}") from error


def _is_served(context: ssl.SSLContext, plain: socket.socket, /, *, host: str) -> bool:
    """With TLS 1.3 a server refuses only after the client believes that all is well: its first answer says."""
    try:
        with context.wrap_socket(plain, server_hostname=host) as wrapped:
            wrapped.sendall(_PREFACE)
            return bool(wrapped.recv(1))
    except ssl.SSLCertVerificationError:
        raise
    except (ssl.SSLError, ConnectionError):
        return False
