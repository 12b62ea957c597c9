"""The table of etcd's errors: what is definite, what is not known, and what may be repeated."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from etcdlock.adapters.etcd_errors import (
    Answer,
    LeaseUnknown,
    Meaning,
    blames_certificate,
    error_from,
    meaning_of,
)
from etcdlock.errors import AccessDenied, EtcdlockError, OutcomeUnknown, Rejected, Unreachable

_UNCLEAR = [
    (StatusCode.UNAVAILABLE, "Socket closed"),
    (StatusCode.UNAVAILABLE, "etcdserver: request timed out, possibly due to previous leader failure"),
    (StatusCode.UNAVAILABLE, "etcdserver: leader changed"),
    (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"),
    (StatusCode.CANCELLED, "the connection was closed on this side"),
    (StatusCode.UNKNOWN, "Stream removed"),
    (StatusCode.INTERNAL, "RST_STREAM with error code 2"),
    (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
    (StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (9 vs. 4)"),
    (StatusCode.UNIMPLEMENTED, "Received http2 header with status: 404"),
    (StatusCode.PERMISSION_DENIED, "Received http2 header with status: 403"),
    (StatusCode.UNAVAILABLE, "etcdserver: permission denied"),
]


def _answer(code: StatusCode, text: str) -> Answer:
    return Answer("127.0.0.1:2379", code, text)


@pytest.mark.parametrize(("code", "text"), _UNCLEAR)
def test_an_unclear_answer_to_a_change_leaves_the_outcome_unknown(code: StatusCode, text: str) -> None:
    error = error_from(_answer(code, text), sent=True)
    assert type(error) is OutcomeUnknown
    assert text in str(error)
    assert "127.0.0.1:2379" in str(error)


@pytest.mark.parametrize(("code", "text"), _UNCLEAR)
def test_an_unclear_answer_to_a_read_means_only_that_none_came(code: StatusCode, text: str) -> None:
    assert type(error_from(_answer(code, text), sent=False)) is Unreachable


@pytest.mark.parametrize("code", list(StatusCode))
def test_no_code_alone_makes_an_answer_definite(code: StatusCode) -> None:
    assert meaning_of(_answer(code, "")) is Meaning.UNCLEAR


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", Rejected),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", Rejected),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large", Rejected),
        (StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max (3 vs. 2)", Rejected),
        (StatusCode.NOT_FOUND, "etcdserver: requested lease not found", LeaseUnknown),
        (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", AccessDenied),
        (StatusCode.UNKNOWN, "auth: permission denied", AccessDenied),
        (StatusCode.FAILED_PRECONDITION, "etcdserver: user name not found", AccessDenied),
        (
            StatusCode.INVALID_ARGUMENT,
            "etcdserver: authentication failed, invalid user ID or password",
            AccessDenied,
        ),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty", AccessDenied),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Unreachable),
        (StatusCode.UNAVAILABLE, "etcdserver: rpc not supported for learner", Unreachable),
    ],
)
def test_a_definite_refusal_stays_one_whether_sent_or_not(
    code: StatusCode, text: str, expected: type[EtcdlockError], sent: bool
) -> None:
    assert type(error_from(_answer(code, text), sent=sent)) is expected


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token"),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old"),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty"),
        (StatusCode.UNKNOWN, "auth: revision in header is old"),
        (StatusCode.UNKNOWN, "auth: invalid auth token"),
        (StatusCode.UNKNOWN, "auth: user name is empty"),
    ],
)
def test_a_stale_token_is_known_by_each_of_its_names(code: StatusCode, text: str) -> None:
    assert meaning_of(_answer(code, text)) is Meaning.STALE_TOKEN


def test_access_denied_says_what_to_check() -> None:
    error = error_from(_answer(StatusCode.PERMISSION_DENIED, "etcdserver: permission denied"), sent=True)
    assert "role" in error.hint


@pytest.mark.parametrize(
    ("text", "blamed"),
    [
        ("Tls handshake failed: OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get local issuer", True),
        ("Tls handshake failed: OPENSSL_internal:SSLV3_ALERT_BAD_CERTIFICATE: OK", True),
        ("Unwrap failed (TSI_DATA_CORRUPTED)", True),
        ("Failed to connect to remote host: Connection refused", False),
        ("Socket closed", False),
    ],
)
def test_a_certificate_is_blamed_only_where_grpc_says_so(text: str, blamed: bool) -> None:
    assert blames_certificate(_answer(StatusCode.UNAVAILABLE, text)) is blamed
